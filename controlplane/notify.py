"""sd_notify(3) for our own processes: systemd or the launcher listens on NOTIFY_SOCKET; without it nothing happens."""

from __future__ import annotations

import os
import socket

WATCHDOG_EVERY = 5.0  # seconds between signs of life of a healthy process


def send(state: str) -> None:
    """Sends `state` ("READY=1", "WATCHDOG=1", "STOPPING=1"). A listener that is away is not our business: never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), address)
    except OSError:
        return
