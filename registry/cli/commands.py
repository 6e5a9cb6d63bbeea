"""The commands of `wharf repo`: importing a noun's file registers its commands with the app."""

from registry.cli import (  # noqa: F401  # each registers its commands
    access,
    images,
    mirrors,
    policies,
    quotas,
    registry,
    repositories,
    stores,
    undo,
)
from registry.cli.frame import app

__all__ = ["app"]
