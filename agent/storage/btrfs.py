"""The btrfs driver: a subvolume per layer, a snapshot per child. Needs a data root on btrfs, and none of btrfs' programs.

A container's size limit is its subvolume's qgroup: it bounds what the container sees in all, the image's files included.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from agent.storage import options as given
from agent.storage import trees
from agent.storage.errors import DriverUnsupported, SizeUnsupported
from agent.storage.snapshots import CONTAINER, LAYER, SnapshotDriver
from agent.sys import btrfs
from agent.sys.mount import Mount

_MIN_SPACE: Final = "btrfs.min_space"


class Btrfs(SnapshotDriver):
    name: ClassVar[str] = "btrfs"
    OPTIONS: ClassVar[frozenset[str]] = frozenset({_MIN_SPACE})

    @classmethod
    def probe(cls, data_root: str, options: Mapping[str, str]) -> None:
        """Make a subvolume and remove it."""
        if not btrfs.is_btrfs(data_root):
            raise DriverUnsupported(f"btrfs does not work on {data_root}: it is not on a btrfs file system")
        place = os.path.join(data_root, f".probe-{os.getpid()}")
        try:
            btrfs.create(place)
            btrfs.destroy(place)
        except OSError as error:
            raise DriverUnsupported(f"btrfs does not work on {data_root}: subvolumes are refused ({error.strerror})") from error

    def _configure(self, options: Mapping[str, str]) -> None:
        self._min_space = given.size(options[_MIN_SPACE], _MIN_SPACE) if _MIN_SPACE in options else 0

    def _size(self, asked: int) -> int:
        if 0 < asked < self._min_space:
            raise SizeUnsupported(
                f"storage size {asked} is below {_MIN_SPACE} of this node, {self._min_space} bytes: ask for that or more"
            )
        return asked

    def _start_tree(self, home: str, name: str, parent: str | None, size: int) -> None:
        place = os.path.join(home, name)
        if parent is None:
            btrfs.create(place)
            os.chmod(place, 0o755)  # noqa: S103  # what a root directory has; the ioctl obeys the umask
        else:
            btrfs.snapshot(os.path.join(parent, LAYER), place)
        if size:
            btrfs.limit(place, size)

    @contextmanager
    def _open(self, home: str, name: str) -> Iterator[str]:
        yield os.path.join(home, name)

    def _mount(self, home: str, name: str, *, read_only: bool) -> Mount:
        return Mount("bind", os.path.join(home, name), "", ("rbind", "ro" if read_only else "rw"))

    def _erase(self, path: str) -> None:
        for name in (LAYER, CONTAINER):
            _destroy(os.path.join(path, name))
        super()._erase(path)


def _destroy(tree: str) -> None:
    try:
        if not btrfs.is_subvolume(tree):
            return
        number = btrfs.identifier(tree)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        btrfs.destroy(tree)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EPERM):
            raise
        trees.remove_path(tree)  # a container made subvolumes of its own: file by file
    btrfs.forget(os.path.dirname(tree), number)
