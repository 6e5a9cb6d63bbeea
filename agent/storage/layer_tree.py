"""The directory that a layer is being unpacked into: its directories, and what whiteouts do to them.

Paths are relative bytes without "." or ".."; descriptors of directories are cached, since archives come directory by directory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from agent.storage import trees
from agent.storage.errors import LayerInvalid
from agent.sys import fs

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
PATH_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY
_CACHED_DIRECTORIES: Final = 128


class LayerTree:
    """`merged`: the directory began as a copy of the parent layer; else it holds this layer alone, as overlayfs wants it.

    `written` (merged only) are the paths this layer made, which its own whiteouts spare; `opaque` the directories whose lower
    content is hidden; `implicit` those that the archive never names; `devices` the fifos that stand for device nodes, with
    (kind, major, minor).
    """

    def __init__(self, root_fd: int, *, merged: bool) -> None:
        self._root = root_fd
        self._merged = merged
        self._cache: dict[bytes, int] = {}
        self.written: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.implicit: set[bytes] = set()
        self.devices: dict[bytes, tuple[str, int, int]] = {}

    # --- directories ---------------------------------------------------------------------------------------------------------

    def parent(self, parts: list[bytes]) -> int:
        """A descriptor of the directory `parts`, made where missing; ours until the next call. Never through a link."""
        if not parts:
            return self._root
        path = b"/".join(parts)
        fd = self._cache.get(path)
        if fd is None:
            try:
                fd = fs.open_beneath(self._root, path, PATH_DIRECTORY)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                fd = self._make_parents(parts)
            if len(self._cache) >= _CACHED_DIRECTORIES:
                self.forget()
            self._cache[path] = fd
        return fd

    def _make_parents(self, parts: list[bytes]) -> int:
        current, path = os.dup(self._root), b""
        try:
            for part in parts:
                path = path + b"/" + part if path else part
                if self.ensure_directory(current, part, path, implicit=True):
                    self.implicit.add(path)
                    if self._merged:
                        self.written.add(path)
                below = os.open(part, PATH_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def ensure_directory(self, parent: int, name: bytes, path: bytes, *, implicit: bool = False) -> bool:
        """True when it is new, False when it was there or took the place of something else."""
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            return True
        except FileExistsError:
            pass
        info = os.lstat(name, dir_fd=parent)
        if stat.S_ISDIR(info.st_mode):
            return False
        own = path in self.written if self._merged else not _is_whiteout(info)
        if implicit and own:
            raise LayerInvalid(f"{show(path)}: a parent is not a directory but a link or file of this layer", rule="parent_link")
        os.unlink(name, dir_fd=parent)
        self.devices.pop(path, None)
        os.mkdir(name, 0o755, dir_fd=parent)
        # Something stood here that hid the lower layers' directory of this name: it must not shine through the new one.
        self.opaque.add(path)
        if self._merged:
            self.written.add(path)
        return False

    def forget(self) -> None:
        for fd in self._cache.values():
            os.close(fd)
        self._cache.clear()

    def clear(self, parent: int, name: bytes, path: bytes) -> None:
        """Make room for a new entry of this name."""
        self.devices.pop(path, None)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._remove_directory(parent, name, path)

    def _remove_directory(self, parent: int, name: bytes, path: bytes) -> None:
        # `parent` may itself be cached: it stays open, everything below is closed first.
        prefix = path + b"/"
        for cached in [known for known in self._cache if known == path or known.startswith(prefix)]:
            os.close(self._cache.pop(cached))
        for gone in (self.written, self.opaque, self.implicit):
            gone.difference_update([known for known in gone if known == path or known.startswith(prefix)])
        for known in [known for known in self.devices if known == path or known.startswith(prefix)]:
            del self.devices[known]
        trees.remove(name, parent)

    # --- whiteouts -----------------------------------------------------------------------------------------------------------

    def whiteout(self, parts: list[bytes]) -> None:
        """Apply the marker `.wh.<name>` or `.wh..wh..opq` at this path. Raises `LayerInvalid` for what no tool writes."""
        marker = parts[-1]
        if marker == OPAQUE:
            self._opaque_directory(parts[:-1])
            return
        name = marker[len(WHITEOUT) :]
        if name in (b"", b".", b"..") or name.startswith(WHITEOUT):
            raise LayerInvalid(f"{show(marker)}: not a whiteout that any tool writes", rule="whiteout")
        path = b"/".join([*parts[:-1], name])
        if self._merged:
            self._hide_merged(parts[:-1], name, path)
            return
        parent = self.parent(parts[:-1])
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                self.opaque.add(path)  # the layer's own directory stays, the lower one's content goes

    def _hide_merged(self, parents: list[bytes], name: bytes, path: bytes) -> None:
        try:
            parent = fs.open_beneath(self._root, b"/".join(parents), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                parent = self.parent(parents)  # makes what overlayfs would make: a directory that holds the whiteout
                trees.remove(name, parent)
                return
            raise
        try:
            self._remove_foreign(parent, name, path)
        finally:
            os.close(parent)

    def _opaque_directory(self, parts: list[bytes]) -> None:
        path = b"/".join(parts)
        parent = self.parent(parts)
        if not self._merged:
            self.opaque.add(path)
            return
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        try:
            for name in os.listdir(fd):
                child = os.fsencode(name)
                self._remove_foreign(fd, child, path + b"/" + child if path else child)
        finally:
            os.close(fd)

    def _remove_foreign(self, parent: int, name: bytes, path: bytes) -> None:
        """Remove what lower layers put at `path`; what this layer made there stays."""
        if path not in self.written:
            prefix = path + b"/"
            if not any(known.startswith(prefix) for known in self.written):
                self._remove_directory(parent, name, path)
                return
        try:
            fd = trees.open_directory(name, parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                return
            raise
        try:
            for child in os.listdir(fd):
                below = os.fsencode(child)
                self._remove_foreign(fd, below, path + b"/" + below)
        finally:
            os.close(fd)


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def show(name: bytes) -> str:
    """A path of an archive, short and printable."""
    return repr(name[:120].decode("utf-8", "backslashreplace"))
