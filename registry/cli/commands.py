"""The commands of `wharf repo`: importing a noun's file registers its commands with the app."""

from registry.cli import mirrors, repositories  # noqa: F401  # register their commands
from registry.cli.frame import app

__all__ = ["app"]
