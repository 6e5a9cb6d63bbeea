"""Who listens on a port of this node: asked only to explain a refusal."""

from __future__ import annotations

import os

from agent.protocol.spec import Protocol

_LISTEN, _UNCONNECTED = "0A", "07"


def holder_of(port: int, protocol: Protocol) -> str:
    """ "process NAME (pid N)", or "a process of this node" when it cannot be seen from our pid namespace."""
    inodes = _inodes(port, protocol)
    found = _process_with(inodes) if inodes else None
    return found or "a process of this node"


def _inodes(port: int, protocol: Protocol) -> set[str]:
    wanted = _LISTEN if protocol is Protocol.TCP else _UNCONNECTED
    suffix = f":{port:04X}"
    found = set()
    for name in (protocol.value, f"{protocol.value}6"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue  # no IPv6
        found |= {row[9] for row in rows if row[1].endswith(suffix) and row[3] == wanted}
    return found


def _process_with(inodes: set[str]) -> str | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    return f"process {_name(pid)} (pid {pid})"
        except OSError:
            continue  # it ended, or is not ours to see
    return None


def _name(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
