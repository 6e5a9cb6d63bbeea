"""The commands of `wharf repo`: importing a noun's file registers its commands with the app."""

from registry.cli import policies, quotas, repositories, undo  # noqa: F401  # each registers its commands
from registry.cli.frame import app

__all__ = ["app"]
