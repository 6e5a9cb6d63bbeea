"""The commands of `wharf repo`: importing a noun's file registers its commands with the app."""

from registry.cli import repositories  # noqa: F401  # registers its commands
from registry.cli.frame import app

__all__ = ["app"]
