"""The fleet's browser websockets."""

from __future__ import annotations

from django.urls import path

from nodes.link.relay import application as relay

websocket_urlpatterns = [
    path("ws/stream", relay),  # type: ignore[arg-type]  # Channels routes applications, not views
]
