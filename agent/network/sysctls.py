"""The few sysctls of the node that we change, and what they were, so that removing the last network puts them back.

/proc/sys/net shows the netns of the thread that opens a file, so this must run in the agent's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.network import records
from agent.network.errors import NetworkFailed

FORWARD = "ipv4/ip_forward"


@dataclass(frozen=True, slots=True)
class _Before:
    values: Mapping[str, str] = field(default_factory=dict)


class Sysctls:
    """`path` remembers the values before us; it belongs in the run directory, as the kernel forgets with it."""

    def __init__(self, path: str, root: str = "/proc/sys/net") -> None:
        self._path = path
        self._root = root
        self._before = dict((records.read(path, _Before) or _Before()).values)

    @property
    def we_forward(self) -> bool:
        """Whether the node was no router before us."""
        return self._before.get(FORWARD) == "0"

    def set(self, name: str, value: str) -> None:
        """Set a node-wide value; written down before it is changed, so that a crash in between loses nothing."""
        current = self._read(name)
        if current == value:
            return
        if name not in self._before:
            self._before[name] = current
            records.write(self._path, _Before(self._before))
        self._write(name, value)

    def set_link(self, link: str, name: str, value: str) -> None:
        """Set a value that lives and dies with a link of ours. `name` as "ipv4/…/route_localnet" with … for the link."""
        self._write(name.replace("…", link), value)

    def restore(self) -> None:
        """Put everything back as it was before our first change."""
        for name, value in self._before.items():
            self._write(name, value)
        self._before.clear()
        records.erase(self._path)

    def _read(self, name: str) -> str:
        with open(os.path.join(self._root, name), encoding="ascii") as file:
            return file.read().strip()

    def _write(self, name: str, value: str) -> None:
        path = os.path.join(self._root, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise NetworkFailed(
                f"cannot set {path} to {value}: {error.strerror}; the agent needs a writable /proc/sys", sysctl=name
            ) from error
