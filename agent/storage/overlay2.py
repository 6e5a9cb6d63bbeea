"""The overlay2 driver: one directory a layer, stacked by the kernel's overlayfs.

A container has `upper/` and `work/`. Mounts name every lower directory by an option of its own (fsconfig `lowerdir+`), so there
is no 4 KiB limit on options. redirect_dir and metacopy stay off: an upper directory must mean the same to any kernel and to
`diff`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from agent.storage import options as given
from agent.storage import trees
from agent.storage.base import DirectoryDriver
from agent.storage.driver import Change
from agent.storage.errors import DriverUnsupported
from agent.storage.extract import Extracted
from agent.storage.projects import ProjectQuotas
from agent.storage.tarwrite import END, TreeWriter
from agent.sys import fs, mountapi
from agent.sys.mount import Mount

OPAQUE_XATTR: Final = "trusted.overlay.opaque"
_SIZE: Final = "overlay2.size"
_OPTIONS: Final = ("redirect_dir=off", "metacopy=off", "index=off")


class Overlay2(DirectoryDriver):
    name: ClassVar[str] = "overlay2"
    merged: ClassVar[bool] = False
    # The first is Docker's, and without effect in Docker, too.
    OPTIONS: ClassVar[frozenset[str]] = frozenset({"overlay2.override_kernel_check", _SIZE})

    @classmethod
    def probe(cls, root: str, options: Mapping[str, str]) -> None:
        """Make a throwaway overlay superblock over directories in `root`; raises `DriverUnsupported` with the kernel's reason."""
        place = os.path.join(root, f".probe-{os.getpid()}")
        try:
            for part in ("lower", "upper", "work"):
                os.makedirs(os.path.join(place, part))
            os.setxattr(place, OPAQUE_XATTR, b"y")
            parameters: list[tuple[int, bytes, bytes | None, int]] = [
                (mountapi.FSCONFIG_SET_STRING, key.encode(), os.path.join(place, key.removesuffix("dir")).encode(), 0)
                for key in ("lowerdir", "upperdir", "workdir")
            ]
            os.close(mountapi.new_filesystem(b"overlay", parameters, 0))
        except OSError as error:
            raise DriverUnsupported(
                f"overlay2 does not work on {root}: {error.strerror}. Its file system needs d_type and trusted xattrs,"
                " and the agent CAP_SYS_ADMIN; choose vfs otherwise"
            ) from error
        finally:
            trees.remove_path(place)

    def _configure(self, options: Mapping[str, str]) -> None:
        self._quotas = ProjectQuotas(self.root)
        self._default_size = given.size(options[_SIZE], _SIZE) if _SIZE in options else 0
        if self._default_size:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            self._quotas.require(self.name)

    def _size(self, asked: int) -> int:
        size = asked or self._default_size
        if size:
            self._quotas.require(self.name)
        return size

    # --- layers --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _filling(self, place: str, parent: str | None) -> Iterator[str]:
        directory = os.path.join(place, "diff")
        os.mkdir(directory)
        os.chmod(directory, 0o755)  # noqa: S103  # what a root directory has; mkdir would obey the umask
        yield directory

    def _finish_layer(self, directory: str, parent: str | None, extracted: Extracted) -> None:
        chain = self.table.chain(parent)
        if parent is not None and not extracted.root_seen:
            below = self.layer_path(parent)
            trees.copy_attributes(below, directory, os.lstat(below))
        root = trees.open_directory(directory)
        try:
            opaque = set(extracted.opaque)
            for path in extracted.implicit:
                if not _hidden(path, opaque):
                    self._inherit(root, path, chain)
            for path in extracted.opaque:
                if path:
                    _set_opaque(root, path)
            if b"" in extracted.opaque:
                self._hide_all(root, chain)
        finally:
            os.close(root)

    def _inherit(self, root: int, path: bytes, chain: list[str]) -> None:
        """A directory that the archive only implies keeps the attributes it has below."""
        found = self._lookup(chain, path)
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return
        fd = fs.open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            trees.copy_attributes(found[0], f"/proc/self/fd/{fd}/.", found[1])
        finally:
            os.close(fd)

    def _hide_all(self, root: int, chain: list[str]) -> None:
        # overlayfs always merges the root itself and ignores an opaque mark there: hide each lower name instead.
        own = {os.fsencode(name) for name in os.listdir(root)}
        below = {os.fsencode(name) for identifier in chain for name in os.listdir(self.layer_path(identifier))}
        for name in below - own:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=root)
        for name in below & own:
            if stat.S_ISDIR(os.lstat(name, dir_fd=root).st_mode):
                _set_opaque(root, name)

    def _lookup(self, chain: list[str], path: bytes) -> tuple[str, os.stat_result] | None:
        """What overlayfs would show at `path` over `chain`: (path on disk, lstat), or None."""
        parts = path.split(b"/")
        for identifier in chain:
            place = self.layer_path(identifier)
            for index, part in enumerate(parts):
                place = os.path.join(place, os.fsdecode(part))
                try:
                    info = os.lstat(place)
                except (FileNotFoundError, NotADirectoryError):
                    break
                if index == len(parts) - 1:
                    return None if _is_whiteout(info) else (place, info)
                if not stat.S_ISDIR(info.st_mode):
                    return None
                if _is_opaque(place) and not os.path.lexists(os.path.join(place, os.fsdecode(parts[index + 1]))):
                    return None
        return None

    # --- mounts --------------------------------------------------------------------------------------------------------------

    def _make_container(self, place: str, chain: list[str], size: int) -> None:
        if size:
            self._quotas.bound(place, size)
        upper = os.path.join(place, "upper")
        os.mkdir(upper)
        os.mkdir(os.path.join(place, "work"), 0o700)
        os.chmod(upper, 0o755)  # noqa: S103  # likewise
        if chain:  # overlayfs shows the upper directory's own attributes at the root
            below = self.layer_path(chain[0])
            info = os.lstat(below)
            os.chown(upper, info.st_uid, info.st_gid)
            os.chmod(upper, stat.S_IMODE(info.st_mode))

    def _erase(self, path: str) -> None:
        number = self._quotas.number(path)
        super()._erase(path)
        if number:
            self._quotas.forget(number)

    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]:
        place = self.container_path(container_id)
        lowers = tuple(f"lowerdir={path}" for path in self._lowers(chain))
        writable = (f"upperdir={place}/upper", f"workdir={place}/work")
        return [Mount("overlay", "overlay", "", (*lowers, *writable, *_OPTIONS))]

    def view(self, chain: list[str]) -> list[Mount]:
        for identifier in chain:
            self.table.require(identifier)
        # Without an upper directory overlayfs wants two lowers; the empty one also makes a single layer's whiteouts vanish.
        lowers = [*(self.layer_path(identifier) for identifier in chain), self._empty(), self._empty("empty2")]
        return [
            Mount("overlay", "overlay", "", ("ro", *(f"lowerdir={path}" for path in lowers[: max(2, len(chain) + 1)]), *_OPTIONS))
        ]

    def _lowers(self, chain: list[str]) -> list[str]:
        return [self.layer_path(identifier) for identifier in chain] or [self._empty()]

    def _empty(self, name: str = "empty") -> str:
        path = os.path.join(self.root, name)
        os.makedirs(path, mode=0o755, exist_ok=True)
        return path

    # --- differences ---------------------------------------------------------------------------------------------------------

    def changes(self, container_id: str) -> list[Change]:
        chain = self.chain_of(container_id)
        found: list[Change] = []
        upper = trees.open_directory(os.path.join(self.container_path(container_id), "upper"))
        try:
            for path, _name, _dir_fd, info in trees.walk(upper):
                shown = "/" + os.fsdecode(path)
                if _is_whiteout(info):
                    found.append(Change("D", shown))
                else:
                    found.append(Change("A" if self._lookup(chain, path) is None else "C", shown))
        finally:
            os.close(upper)
        return sorted(found, key=lambda change: change.path)

    def diff(self, container_id: str) -> Iterator[bytes]:
        self.chain_of(container_id)
        return _archive(os.path.join(self.container_path(container_id), "upper"))

    def export_layer(self, chain_id: str) -> Iterator[bytes]:
        self.table.require(chain_id)
        return _archive(self.layer_path(chain_id))


def _archive(directory: str) -> Iterator[bytes]:
    writer = TreeWriter()
    root = trees.open_directory(directory)
    try:
        for path, name, dir_fd, info in trees.walk(root):
            if _is_whiteout(info):
                yield writer.whiteout(path)
                continue
            yield from writer.entry(path, name, dir_fd, info)
            if stat.S_ISDIR(info.st_mode) and _is_opaque(trees.fd_path(dir_fd, name)):
                yield writer.opaque(path)
        yield END
    finally:
        os.close(root)


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(path: str) -> bool:
    return trees.xattrs(path).get(OPAQUE_XATTR) == b"y"


def _hidden(path: bytes, opaque: set[bytes]) -> bool:
    """Whether a directory above `path` hides what lower layers hold there."""
    while path:
        path = os.path.dirname(path)
        if path in opaque:
            return True
    return False


def _set_opaque(root: int, path: bytes) -> None:
    fd = fs.open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.setxattr(fd, OPAQUE_XATTR, b"y")
    finally:
        os.close(fd)
