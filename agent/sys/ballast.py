"""Room kept on the disk for the node's own state: a file that is given up when everything else is full."""

from __future__ import annotations

import os

SIZE = 16 << 20


class Ballast:
    """`hold` it in good times, `give` it up on ENOSPC: the agent can then still write what it must remember."""

    def __init__(self, path: str, size: int = SIZE) -> None:
        self._path = path
        self._size = size

    @property
    def held(self) -> bool:
        try:
            return os.stat(self._path).st_size >= self._size
        except FileNotFoundError:
            return False

    def hold(self) -> bool:
        """Have it, if the disk has twice its room to spare (else state and ballast would take turns); False when it has not."""
        if self.held:
            return True
        disk = os.statvfs(os.path.dirname(self._path))
        if disk.f_bavail * disk.f_frsize < 2 * self._size:
            return False
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
        except OSError:
            os.ftruncate(fd, 0)
            return False
        finally:
            os.close(fd)
        return True

    def give(self) -> bool:
        """True when that made room."""
        if not self.held:
            return False
        os.truncate(self._path, 0)
        return True
