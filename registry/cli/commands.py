"""The commands of `wharf repo`: importing a noun's file registers its commands with the app."""

from registry.cli import access, images, registry, repositories  # noqa: F401  # register their commands
from registry.cli.frame import app

__all__ = ["app"]
