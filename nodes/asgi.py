"""What the fleet serves beside Django, by the names the ground floor looks for."""

from __future__ import annotations

from nodes.link.app import application as node_port_app
from nodes.link.relay import application as relay

__all__ = ["node_port_app", "sockets"]

sockets = [("ws/stream", relay)]  # origin-checked by the ground floor's websocket door
