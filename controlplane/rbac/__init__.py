"""Rights: the three questions anyone asks. The engine behind them is controlplane.rbac.engine."""

from controlplane.api.access import explain, require, visible

__all__ = ["explain", "require", "visible"]
