"""The vfs driver: every layer and container is a whole tree. Slow, needs nothing of the kernel: the yardstick of the others.

On file systems that share extents (btrfs, xfs) a copy costs metadata only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import ClassVar

from agent.storage import trees
from agent.storage.base import DirectoryDriver
from agent.storage.driver import Change
from agent.storage.extract import Extracted
from agent.storage.tarwrite import END, TreeWriter
from agent.sys.mount import Mount


class Vfs(DirectoryDriver):
    name: ClassVar[str] = "vfs"
    merged: ClassVar[bool] = True

    @staticmethod
    def probe(root: str) -> None:
        """Works wherever files can be written."""

    def _layer_directory(self, place: str, parent: str | None) -> str:
        directory = os.path.join(place, "diff")
        self._start_tree(directory, parent)
        return directory

    @staticmethod
    def _plain_directory(directory: str) -> None:
        os.mkdir(directory)
        os.chmod(directory, 0o755)  # noqa: S103  # what a root directory has; mkdir would obey the umask

    def _start_tree(self, directory: str, parent: str | None) -> None:
        if parent is None:
            self._plain_directory(directory)
        else:
            trees.copy(self.layer_path(parent), directory)

    def _finish_layer(self, directory: str, parent: str | None, extracted: Extracted) -> None:
        """Nothing: the helper had the whole view."""

    def _make_container(self, place: str, chain: list[str]) -> None:
        self._start_tree(os.path.join(place, "rootfs"), chain[0] if chain else None)

    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]:
        return [Mount("bind", os.path.join(self.container_path(container_id), "rootfs"), "", ("rbind", "rw"))]

    def view(self, chain: list[str]) -> list[Mount]:
        for identifier in chain:
            self.table.require(identifier)
        if not chain:
            empty = os.path.join(self.root, "empty")
            os.makedirs(empty, mode=0o755, exist_ok=True)
            return [Mount("bind", empty, "", ("rbind", "ro"))]
        return [Mount("bind", self.layer_path(chain[0]), "", ("rbind", "ro"))]

    # --- differences ---------------------------------------------------------------------------------------------------------

    def changes(self, container_id: str) -> list[Change]:
        old, new = self._trees_of(container_id)
        return [Change(kind, "/" + os.fsdecode(path)) for kind, path in _compare(old, new)]

    def diff(self, container_id: str) -> Iterator[bytes]:
        return _archive(*self._trees_of(container_id))

    def export_layer(self, chain_id: str) -> Iterator[bytes]:
        parent = self.table.require(chain_id).parent
        return _archive(self.layer_path(parent) if parent else None, self.layer_path(chain_id))

    def _trees_of(self, container_id: str) -> tuple[str | None, str]:
        chain = self.chain_of(container_id)
        return (self.layer_path(chain[0]) if chain else None), os.path.join(self.container_path(container_id), "rootfs")


def _signatures(directory: str | None) -> dict[bytes, tuple[object, ...]]:
    """What makes an entry differ, by path. A directory's times do not count: they follow from its children."""
    if directory is None:
        return {}
    root = trees.open_directory(directory)
    found: dict[bytes, tuple[object, ...]] = {}
    try:
        for path, name, dir_fd, info in trees.walk(root):
            what: tuple[object, ...] = (info.st_mode, info.st_uid, info.st_gid, info.st_rdev)
            if not stat.S_ISDIR(info.st_mode):
                what += (info.st_size, info.st_mtime_ns)
            if stat.S_ISLNK(info.st_mode):
                what += (os.readlink(name, dir_fd=dir_fd),)
            else:
                what += (tuple(sorted(trees.xattrs(trees.fd_path(dir_fd, name)).items())),)
            found[path] = what
    finally:
        os.close(root)
    return found


def _compare(old: str | None, new: str) -> list[tuple[str, bytes]]:
    before, after = _signatures(old), _signatures(new)
    found = [("A" if path not in before else "C", path) for path in after if before.get(path) != after[path]]
    touched = {path for _, path in found}
    gone: set[bytes] = set()
    for path in sorted(before.keys() - after.keys()):
        parent = os.path.dirname(path)
        # Below something that is gone, or is no directory any more, nothing needs saying.
        if parent in gone or (parent and not stat.S_ISDIR(_mode(after.get(parent)))):
            gone.add(path)
        else:
            gone.add(path)
            found.append(("D", path))
            touched.add(path)
    for path in list(touched):  # as overlayfs, which copies directories up: a change below shows at each parent
        while path := os.path.dirname(path):
            if path in touched or path not in after:
                break
            touched.add(path)
            found.append(("C", path))
    return sorted(found, key=lambda change: change[1])


def _mode(signature: tuple[object, ...] | None) -> int:
    mode = signature[0] if signature else 0
    return mode if isinstance(mode, int) else 0


def _archive(old: str | None, new: str) -> Iterator[bytes]:
    changes = dict((path, kind) for kind, path in _compare(old, new))
    writer = TreeWriter()
    for path, kind in changes.items():
        if kind == "D":
            yield writer.whiteout(path)
    root = trees.open_directory(new)
    try:
        for path, name, dir_fd, info in trees.walk(root):
            if path in changes:
                yield from writer.entry(path, name, dir_fd, info)
        yield END
    finally:
        os.close(root)
