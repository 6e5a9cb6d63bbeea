"""What the server mounts beside Django."""

from __future__ import annotations

from typing import Any


def mount() -> list[tuple[str, Any]]:
    """[(path prefix, ASGI app)]."""
    from registry.v2.app import application  # models need the app registry

    return [("/v2/", application)]
