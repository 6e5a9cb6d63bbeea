"""Tell systemd that we are ready (sd_notify(3)); nothing happens without NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Sends READY=1. Raises OSError when the socket named by systemd does not take it."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(b"READY=1", address)
