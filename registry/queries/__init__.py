"""Reads of the registry over several tables."""

from registry.queries.pins import NotOurs, Pin, is_ours, pin

__all__ = ["NotOurs", "Pin", "is_ours", "pin"]
