"""What drivers do alike that give each layer a whole tree: a copy or snapshot of the parent's, with the archive applied to it.

A layer's tree is called `diff`, a container's `rootfs`; where they lie is the driver's own matter, and `_open` leads there.
Differences are found by comparing two trees.
"""

from __future__ import annotations

import os
import stat
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import ClassVar, Final

from agent.storage import trees
from agent.storage.base import DirectoryDriver
from agent.storage.driver import Change
from agent.storage.extract import Extracted
from agent.storage.table import hex_of
from agent.storage.tarwrite import END, TreeWriter
from agent.sys.mount import Mount

LAYER: Final = "diff"
CONTAINER: Final = "rootfs"


class SnapshotDriver(DirectoryDriver):
    """`home` is the directory of a layer, of a container, or the scratch directory that is going to be one."""

    merged: ClassVar[bool] = True

    @abstractmethod
    def _start_tree(self, home: str, name: str, parent: str | None, size: int) -> None:
        """A new tree `name` in `home`: what layer `parent` holds (its home), or an empty directory of mode 0755."""

    @abstractmethod
    def _open(self, home: str, name: str) -> AbstractContextManager[str]:
        """A path to a tree, for the time of the block. What was written there is durable afterwards."""

    @abstractmethod
    def _mount(self, home: str, name: str, *, read_only: bool) -> Mount: ...

    def _layer_home(self, identifier: str) -> str:
        return os.path.join(self.root, "layers", hex_of(identifier))

    @contextmanager
    def _filling(self, place: str, parent: str | None) -> Iterator[str]:
        self._start_tree(place, LAYER, self._layer_home(parent) if parent else None, 0)
        with self._open(place, LAYER) as directory:
            yield directory

    def _finish_layer(self, directory: str, parent: str | None, extracted: Extracted) -> None:
        """Nothing: the helper had the whole view."""

    def _make_container(self, place: str, chain: list[str], size: int) -> None:
        self._start_tree(place, CONTAINER, self._layer_home(chain[0]) if chain else None, size)

    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]:
        return [self._mount(self.container_path(container_id), CONTAINER, read_only=False)]

    def view(self, chain: list[str]) -> list[Mount]:
        for identifier in chain:
            self.table.require(identifier)
        if not chain:
            empty = os.path.join(self.root, "empty")
            os.makedirs(empty, mode=0o755, exist_ok=True)
            return [Mount("bind", empty, "", ("rbind", "ro"))]
        return [self._mount(self._layer_home(chain[0]), LAYER, read_only=True)]

    # --- differences ---------------------------------------------------------------------------------------------------------

    def changes(self, container_id: str) -> list[Change]:
        with self._trees_of(container_id) as (old, new):
            return [Change(kind, "/" + os.fsdecode(path)) for kind, path in _compare(old, new)]

    def diff(self, container_id: str) -> Iterator[bytes]:
        chain = self.chain_of(container_id)
        return self._archive(chain[0] if chain else None, self.container_path(container_id), CONTAINER)

    def export_layer(self, chain_id: str) -> Iterator[bytes]:
        return self._archive(self.table.require(chain_id).parent, self._layer_home(chain_id), LAYER)

    def _archive(self, parent: str | None, home: str, name: str) -> Iterator[bytes]:
        with self._pair(parent, home, name) as (old, new):
            yield from _archive(old, new)

    def usage(self, container_id: str) -> int:
        """What the container does not share with its image: the disk space of everything that differs."""
        with self._trees_of(container_id) as (old, new):
            changed = {path for kind, path in _compare(old, new) if kind != "D"}
            root = trees.open_directory(new)
            try:
                return sum(info.st_blocks * 512 for path, _name, _fd, info in trees.walk(root) if path in changed)
            finally:
                os.close(root)

    def _trees_of(self, container_id: str) -> AbstractContextManager[tuple[str | None, str]]:
        chain = self.chain_of(container_id)
        return self._pair(chain[0] if chain else None, self.container_path(container_id), CONTAINER)

    @contextmanager
    def _pair(self, parent: str | None, home: str, name: str) -> Iterator[tuple[str | None, str]]:
        with ExitStack() as stack:
            old = stack.enter_context(self._open(self._layer_home(parent), LAYER)) if parent else None
            yield old, stack.enter_context(self._open(home, name))


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
