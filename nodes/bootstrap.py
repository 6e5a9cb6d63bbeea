"""What the launcher asks of the fleet, by name, before anybody has signed in."""

from __future__ import annotations

from datetime import timedelta

from controlplane.api.actor import SYSTEM
from nodes.actions import create_join_token

LIFETIME = timedelta(minutes=10)


def local_node_token() -> str:
    """A join token for the agent on this very host: one use, ten minutes. The launcher runs as the user who owns the home."""
    _, text = create_join_token(SYSTEM, name="the local node", lifetime=LIFETIME)
    return text
