"""Apply one layer archive to a directory, entry by entry, believing nothing in it.

Two ways of keeping whiteouts: `overlay` makes the 0:0 character devices that overlayfs reads and reports opaque directories
(their trusted.* attribute needs a right that the helper process gave up); `merged` deletes from a copy of the parent.
Rules: OCI image-spec 1.1 layer.md; kernel Documentation/filesystems/overlayfs.rst. A whiteout hides what lower layers hold,
never what its own layer holds; both ways give the same view, which the drivers' contract suite compares.

Confinement does not rest on these checks alone: the helper is chrooted into the directory and owns no right over the host.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Final

from agent.storage import tarread, trees
from agent.storage.devices import MAX_MAJOR, MAX_MINOR, Device
from agent.storage.errors import LayerInvalid, LayerTooLarge, NoSpace
from agent.storage.layer_tree import PATH_DIRECTORY, WHITEOUT, LayerTree, show
from agent.storage.limits import Limits, Rights
from agent.storage.tarread import Entry, TarReader
from agent.sys import fs

_AUFS_LEFTOVERS: Final = (b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ID: Final = (1 << 32) - 2
_MAX_TIME_NS: Final = (1 << 33) * 1_000_000_000


class Unpacker:
    """State of one layer. After `run`: `tree.opaque` and `tree.implicit`, `root_seen`, `entries`, `size` (sum of files)."""

    def __init__(self, root_fd: int, *, limits: Limits, rights: Rights, merged: bool) -> None:
        self._root = root_fd
        self._limits = limits
        self._rights = rights
        self._merged = merged
        self.tree = LayerTree(root_fd, merged=merged)
        self._mode_bits = 0o7777 if rights.keep_setuid else 0o1777
        self._times: dict[bytes, int] = {}
        self._default_acls: dict[bytes, bytes | None] = {}  # of every directory that has an entry
        self.root_seen = False
        self.entries = 0
        self.size = 0

    def run(self, reader: TarReader) -> None:
        """Raises `LayerInvalid`, `LayerTooLarge`, `NoSpace`."""
        try:
            for entry in reader:
                self._apply(entry, reader)
            self._finish_directories()
        finally:
            self.tree.forget()

    # --- one entry -----------------------------------------------------------------------------------------------------------

    def _apply(self, entry: Entry, reader: TarReader) -> None:
        self.entries += 1
        if self.entries > self._limits.max_entries:
            raise LayerTooLarge(f"more than {self._limits.max_entries} entries", limit="entries")
        parts = self._parts(entry.name, "path")
        if any(part in _AUFS_LEFTOVERS for part in parts):
            return
        self._check_parents(parts)
        try:
            if not parts:
                self._root_entry(entry)
            elif parts[-1].startswith(WHITEOUT):
                self.tree.whiteout(parts)
            else:
                self._make(entry, parts, reader)
        except OSError as error:
            raise _explain(error, entry.name) from error

    def _parts(self, name: bytes, what: str) -> list[bytes]:
        if len(name) > self._limits.max_path:
            raise LayerTooLarge(f"a {what} of {len(name)} bytes; the limit is {self._limits.max_path}", limit="path")
        if name.startswith(b"/"):
            raise LayerInvalid(f"{show(name)}: absolute paths are refused", rule="absolute")
        parts = [part for part in name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise LayerInvalid(f"{show(name)}: paths with '..' are refused", rule="parent")
        if len(parts) > self._limits.max_depth:
            raise LayerTooLarge(
                f"a {what} is {len(parts)} directories deep; the limit is {self._limits.max_depth}", limit="depth"
            )
        return parts

    @staticmethod
    def _check_parents(parts: list[bytes]) -> None:
        for part in parts[:-1]:
            if part.startswith(WHITEOUT):
                raise LayerInvalid(f"{show(part)}: a whiteout cannot be a directory", rule="whiteout")

    def _root_entry(self, entry: Entry) -> None:
        if entry.type != tarread.DIRECTORY:
            raise LayerInvalid("the layer's root is not a directory", rule="root")
        self.root_seen = True
        self._attributes(self._root, entry)
        self._later(self._root, b"", entry)

    def _make(self, entry: Entry, parts: list[bytes], reader: TarReader) -> None:
        maker = self._MAKERS.get(entry.type)
        if maker is None:
            raise LayerInvalid(f"{show(entry.name)}: entry type {entry.type!r} is not known", rule="type")
        if entry.name.endswith(b"/") and entry.type == tarread.REGULAR:
            raise LayerInvalid(f"{show(entry.name)}: a file's name ends with '/'", rule="header")
        parent = self.tree.parent(parts[:-1])
        path = b"/".join(parts)
        maker(self, entry, parent, parts[-1], path, reader)
        if self._merged:
            self.tree.written.add(path)

    # --- kinds of entries ----------------------------------------------------------------------------------------------------

    def _directory(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        self.tree.ensure_directory(parent, name, path)
        self.tree.implicit.discard(path)
        fd = trees.open_directory(name, parent)
        try:
            self._attributes(fd, entry)
            self._later(fd, path, entry)
        finally:
            os.close(fd)

    def _later(self, fd: int, path: bytes, entry: Entry) -> None:
        """What a directory is given at the end."""
        self._times[path] = entry.mtime_ns
        self._default_acls[path] = entry.xattrs.get(os.fsencode(trees.DEFAULT_ACL))
        self._acl(fd, trees.DEFAULT_ACL, None, path)

    def _regular(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        self.size += entry.size
        if self.size > self._limits.max_bytes:
            raise LayerTooLarge(f"the files hold more than {self._limits.max_bytes} bytes", limit="bytes")
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self.tree.clear(parent, name, path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is None:
                for piece in reader.data():
                    _write(fd, piece)
            else:
                self._sparse(fd, entry, reader)
            self._attributes(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    @staticmethod
    def _sparse(fd: int, entry: Entry, reader: TarReader) -> None:
        os.ftruncate(fd, entry.size)
        extents = iter(entry.sparse or ())
        offset = length = 0
        for piece in reader.data():
            while piece:
                while not length:
                    offset, length = next(extents)
                part, piece = piece[:length], piece[length:]
                os.lseek(fd, offset, os.SEEK_SET)
                _write(fd, part)
                offset, length = offset + len(part), length - len(part)

    def _hard_link(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        target = self._parts(entry.linkname, "link target")
        target_path = b"/".join(target)
        if not target or target_path == path:
            raise LayerInvalid(f"{show(entry.name)}: a hard link to itself or to the root", rule="hardlink")
        if self._merged and target_path not in self.tree.written:
            raise self._outside(entry)
        try:
            source = fs.open_beneath(self._root, b"/".join(target[:-1]), PATH_DIRECTORY)
        except OSError as error:
            raise self._outside(entry) from error
        try:
            if not self._linkable(source, target[-1]):
                raise self._outside(entry)
            self.tree.clear(parent, name, path)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            if target_path in self.tree.devices:
                self.tree.devices[path] = self.tree.devices[target_path]
        except FileNotFoundError as error:
            raise self._outside(entry) from error
        finally:
            os.close(source)

    @staticmethod
    def _linkable(dir_fd: int, name: bytes) -> bool:
        mode = os.lstat(name, dir_fd=dir_fd).st_mode
        return stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISFIFO(mode)

    @staticmethod
    def _outside(entry: Entry) -> LayerInvalid:
        return LayerInvalid(
            f"{show(entry.name)}: hard link to {show(entry.linkname)}, which is no file of this layer", rule="hardlink"
        )

    def _symlink(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        if not entry.linkname or len(entry.linkname) > self._limits.max_path:
            raise LayerInvalid(
                f"{show(entry.name)}: a symbolic link's target has 1 to {self._limits.max_path} bytes", rule="symlink"
            )
        self.tree.clear(parent, name, path)
        os.symlink(entry.linkname, name, dir_fd=parent)
        os.chown(name, _id(entry.uid), _id(entry.gid), dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(_time(entry), _time(entry)), dir_fd=parent, follow_symlinks=False)

    def _fifo(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        self.tree.clear(parent, name, path)
        os.mkfifo(name, 0o600, dir_fd=parent)
        os.chown(name, _id(entry.uid), _id(entry.gid), dir_fd=parent, follow_symlinks=False)
        # We made it a moment ago in a directory that only we write, so the name cannot be a link.
        os.chmod(name, entry.mode & self._mode_bits, dir_fd=parent)
        os.utime(name, ns=(_time(entry), _time(entry)), dir_fd=parent, follow_symlinks=False)

    def _device(self, entry: Entry, parent: int, name: bytes, path: bytes, reader: TarReader) -> None:
        """A fifo with everything but its kind and numbers, which `devices.make` gives it: this process may make no devices."""
        if not self._rights.keep_devices:
            raise LayerInvalid(
                f"{show(entry.name)}: device nodes are refused; exclude ./dev/* from the archive, or run the node with"
                " --image-devices",
                rule="device",
            )
        device = Device(path, "c" if entry.type == tarread.CHAR else "b", entry.major, entry.minor)
        if device.is_whiteout or not (0 <= entry.major <= MAX_MAJOR and 0 <= entry.minor <= MAX_MINOR):
            raise LayerInvalid(f"{show(entry.name)}: {entry.major}:{entry.minor} is no device that can be made", rule="device")
        self._fifo(entry, parent, name, path, reader)
        self.tree.devices[path] = (device.kind, device.major, device.minor)

    _MAKERS: Final[dict[bytes, Any]] = {
        tarread.DIRECTORY: _directory,
        tarread.REGULAR: _regular,
        tarread.HARDLINK: _hard_link,
        tarread.SYMLINK: _symlink,
        tarread.FIFO: _fifo,
        tarread.CHAR: _device,
        tarread.BLOCK_DEVICE: _device,
    }

    # --- attributes ----------------------------------------------------------------------------------------------------------

    def _attributes(self, fd: int, entry: Entry) -> None:
        _time(entry)
        os.fchown(fd, _id(entry.uid), _id(entry.gid))
        os.fchmod(fd, entry.mode & (0o7777 if entry.type == tarread.DIRECTORY else self._mode_bits))
        for key, value in entry.xattrs.items():
            name = os.fsdecode(key)
            if name not in trees.ACLS and trees.is_portable(name) and (name[:5] == "user." or self._rights.keep_capabilities):
                os.setxattr(fd, key, value)
        # last, since it decides the mode's bits of the group; none may be left that a directory or the parent layer gave
        self._acl(fd, trees.ACCESS_ACL, entry.xattrs.get(os.fsencode(trees.ACCESS_ACL)), entry.name)

    def _acl(self, fd: int, key: str, value: bytes | None, name: bytes) -> None:
        try:
            if value is not None:
                os.setxattr(fd, key, value)
            elif self._merged:
                os.removexattr(fd, key)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise LayerInvalid(f"{show(name)}: {key} is no access control list", rule="acl") from error
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):  # no list, or none on this file system
                raise

    def _finish_directories(self) -> None:
        # Making children touched their times, and would have given the children their lists; nothing changes any more now.
        for path, mtime_ns in self._times.items():
            try:
                fd = fs.open_beneath(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue  # replaced or removed by a later entry
            try:
                self._acl(fd, trees.DEFAULT_ACL, self._default_acls.get(path), path)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)


def _write(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def _id(value: int) -> int:
    if not 0 <= value <= _MAX_ID:
        raise LayerInvalid(f"owner {value} is out of range", rule="owner")
    return value


def _time(entry: Entry) -> int:
    if abs(entry.mtime_ns) > _MAX_TIME_NS:
        raise LayerInvalid(f"{show(entry.name)}: its time is out of range", rule="time")
    return entry.mtime_ns


def _explain(error: OSError, name: bytes) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk is full: free space under the data root, then try again")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
        return LayerInvalid(f"{show(name)}: its path leads through a link or a file", rule="parent_link")
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST, errno.EILSEQ, errno.ERANGE, errno.E2BIG, errno.EMLINK):
        return LayerInvalid(f"{show(name)}: the file system refuses it ({error.strerror})", rule="filesystem")
    return error
