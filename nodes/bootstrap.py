"""The first start's door into the fleet; asked by name from the launcher's helper, never over the network."""

from __future__ import annotations

from datetime import timedelta

from controlplane.api.actor import SYSTEM
from nodes.actions import create_join_token


def local_node_token() -> str:
    """A token for one node, good for a quarter of an hour: for the agent that starts beside the control plane."""
    return create_join_token(SYSTEM, name="local node", uses=1, lifetime=timedelta(minutes=15))[1]
