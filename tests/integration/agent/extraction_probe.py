"""Runs in place of the unpacker, inside the helper process after it gave up its rights, and reports what it can still do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from agent.storage import helper
from agent.storage.errors import ExtractionFailed
from agent.sys import mountapi, process

FORBIDDEN: dict[str, Callable[[], object]] = {
    "see the host": lambda: os.stat("/etc/passwd"),
    "make a device": lambda: os.mknod("/null", 0o20666, os.makedev(1, 3)),
    "mount": lambda: mountapi.new_filesystem(b"tmpfs", [], 0),
    "chroot": lambda: os.chroot("."),
    "set a trusted attribute": lambda: os.setxattr("/f", "trusted.overlay.opaque", b"y"),
    "execute": lambda: os.execv("/f", ["f"]),
    "fork": os.fork,
    "open a socket": socket.socket,
    "make a user namespace": lambda: process.unshare(process.CLONE_NEWUSER),
    "raise a limit": lambda: helper.resource.setrlimit(helper.resource.RLIMIT_AS, (1 << 40, 1 << 40)),
}


def main() -> None:
    helper._unpack = _probe  # the test's point is to stand in its place
    helper.main()


def _probe(limits: Any, rights: Any, config: Any) -> Any:
    found: dict[str, str] = {}
    for name, action in FORBIDDEN.items():
        try:
            action()
        except (OSError, ValueError) as error:
            found[name] = str(error)
        else:
            found[name] = "allowed"
    thread = threading.Thread(target=found.update, args=({"start a thread": "works"},))
    thread.start()
    thread.join()
    raise ExtractionFailed("probed", found=found)
