"""What the fleet serves beside Django, by the names the ground floor looks for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from nodes.link.app import application as node_port_app
from nodes.link.hub import HUB

__all__ = ["lifespan", "node_port_app"]


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """The hub's loops run while the process serves."""
    async with HUB.running():
        yield
