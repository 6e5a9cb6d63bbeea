"""What --version prints, and which specification is meant."""

from __future__ import annotations

VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"


def text(program: str) -> str:
    """Three lines, as runc's callers (dockerd, podman info) read them."""
    return f"{program} version {VERSION}\ncommit: {VERSION}\nspec: {SPEC_VERSION}\n"
