"""Size limits by project quota: one project a container, in a range that nobody else is likely to use."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from typing import Final

from agent.storage.errors import SizeUnsupported
from agent.sys import projquota

# Docker begins at 1 and others, too: the two may share a disk.
FIRST: Final = 0x57480000
LAST: Final = 0x5748FFFF


class ProjectQuotas:
    """`root` is the driver's directory; its containers carry their project on their own directories, which is all the record."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._next = 0
        self._works: bool | None = None

    def require(self, driver: str) -> None:
        """Raises `SizeUnsupported`, with what it would take."""
        if self._works is None:
            self._works = self._try()
        if not self._works:
            raise SizeUnsupported(
                f"graph driver {driver} can limit a container's size only on xfs that is mounted with pquota, which {self._root}"
                " is not: leave the storage size out, or run the node with btrfs, zfs or devicemapper"
            )

    def _try(self) -> bool:
        if not projquota.keeps_limits(self._root):
            return False
        place = os.path.join(self._root, "tmp", f"quota-{uuid.uuid4().hex}")
        os.makedirs(place)
        try:
            projquota.assign(place, LAST)
            projquota.limit(place, LAST, 1 << 20)
            projquota.limit(place, LAST, 0)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EPERM):
                return False
            raise
        finally:
            os.rmdir(place)
        return True

    def bound(self, place: str, size: int) -> None:
        """Give the new, empty directory a project of its own with room for `size` bytes."""
        with self._guard:
            number = self._free()
            projquota.assign(place, number)
        projquota.limit(place, number, size)

    def number(self, path: str) -> int:
        """The project of ours that a directory is, 0 = none."""
        try:
            found = projquota.project(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
                return 0
            raise
        return found if FIRST <= found < LAST else 0

    def forget(self, number: int) -> None:
        projquota.limit(self._root, number, 0)

    def _free(self) -> int:
        """A number that no container of ours has."""
        homes = [os.path.join(self._root, part) for part in ("containers", "tmp")]
        used = {self.number(os.path.join(home, name)) for home in homes for name in os.listdir(home)}
        self._next = max(self._next, FIRST)
        while self._next in used:
            self._next = self._next + 1 if self._next + 1 < LAST else FIRST
        return self._next
