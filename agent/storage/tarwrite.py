"""Trees back to archives: a streaming writer of POSIX pax tar with whiteouts, hard links, xattrs and sparse files.

Output is deterministic for equal trees: sorted by path, numeric owners only, no access or change times.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from agent.storage import trees
from agent.storage.layer_tree import OPAQUE, WHITEOUT
from agent.storage.tarread import BLOCK, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK
from agent.sys import fs

_PIECE: Final = 1 << 20
_OCTAL_LIMIT: Final = 8**11
_OCTAL_ID: Final = 8**7
# Below this a hole saves nothing worth an extended header.
_SPARSE_MINIMUM: Final = 64 << 10
END: Final = bytes(2 * BLOCK)


def file_bytes(name: str, data: bytes, mtime: int = 0) -> bytes:
    """A whole small regular file as archive bytes."""
    return header(name.encode(), REGULAR, 0o644, size=len(data), mtime_ns=mtime * 10**9) + data + bytes(-len(data) % BLOCK)


def header(
    name: bytes,
    kind: bytes,
    mode: int,
    *,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    device: int = 0,
    extra: dict[bytes, bytes] | None = None,
) -> bytes:
    """One entry's header blocks: a pax header first when ustar's fields cannot say it. `device` is a node's number, a dev_t."""
    records = dict(extra or {})
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    for key, value, limit in ((b"uid", uid, _OCTAL_ID), (b"gid", gid, _OCTAL_ID), (b"size", size, _OCTAL_LIMIT)):
        if value >= limit:
            records[key] = b"%d" % value
    seconds, fraction = divmod(mtime_ns, 10**9)
    if fraction or not 0 <= seconds < _OCTAL_LIMIT:
        records[b"mtime"] = _pax_time(mtime_ns)
    blocks = b""
    if records:
        body = b"".join(_record(key, value) for key, value in sorted(records.items()))
        blocks = _ustar(b"PaxHeaders/" + os.path.basename(name.rstrip(b"/"))[:80], b"x", 0o644, 0, 0, len(body), 0, b"", 0)
        blocks += body + bytes(-len(body) % BLOCK)
    return blocks + _ustar(name[:100], kind, mode, uid, gid, size, seconds, link[:100], device)


def _pax_time(mtime_ns: int) -> bytes:
    sign = b"-" if mtime_ns < 0 else b""
    seconds, fraction = divmod(abs(mtime_ns), 10**9)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    total = rest + len(b"%d" % rest)
    if len(b"%d" % total) > len(b"%d" % rest):  # the length counts its own digits
        total = rest + len(b"%d" % total)
    return b"%d %s=%s\n" % (total, key, value)


def _ustar(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, seconds: int, link: bytes, device: int) -> bytes:
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    for start, width, value, limit in (
        (100, 7, mode, _OCTAL_ID),
        (108, 7, uid, _OCTAL_ID),
        (116, 7, gid, _OCTAL_ID),
        (124, 11, size, _OCTAL_LIMIT),
        (136, 11, seconds, _OCTAL_LIMIT),
    ):
        block[start : start + width] = b"%0*o" % (width, value if 0 <= value < limit else 0)
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    if device:
        block[329:344] = b"%07o\0%07o" % (os.major(device), os.minor(device))
    block[148:156] = b"        "
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


class TreeWriter:
    """Writes entries of one tree; hard links between them are found by inode."""

    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}

    def whiteout(self, path: bytes) -> bytes:
        """The marker that removes `path`."""
        head, tail = os.path.split(path)
        return header(os.path.join(head, WHITEOUT + tail), REGULAR, 0)

    def opaque(self, path: bytes) -> bytes:
        """The marker that hides what lower layers hold in directory `path`."""
        return header(os.path.join(path, OPAQUE), REGULAR, 0)

    def entry(self, path: bytes, name: bytes, dir_fd: int, info: os.stat_result) -> Iterator[bytes]:
        """The entry `path`, which is `name` in `dir_fd`. Sockets are left out: they mean nothing elsewhere.

        So is a character device 0:0, which overlayfs would take for a whiteout. Special files have no attributes to keep.
        """
        if stat.S_ISDIR(info.st_mode):
            yield _head(path + b"/", DIRECTORY, info, extra=_portable(dir_fd, name))
            return
        first = self._links.setdefault((info.st_dev, info.st_ino), path) if info.st_nlink > 1 else path
        if first != path:
            yield _head(path, HARDLINK, info, link=first)
        elif stat.S_ISREG(info.st_mode):
            yield from _file(path, name, dir_fd)
        elif stat.S_ISLNK(info.st_mode):
            yield _head(path, SYMLINK, info, link=os.readlink(name, dir_fd=dir_fd))
        elif stat.S_ISFIFO(info.st_mode):
            yield _head(path, FIFO, info)
        elif stat.S_ISBLK(info.st_mode) or (stat.S_ISCHR(info.st_mode) and info.st_rdev):
            yield _head(path, CHAR if stat.S_ISCHR(info.st_mode) else BLOCK_DEVICE, info, device=info.st_rdev)


def _head(
    path: bytes,
    kind: bytes,
    info: os.stat_result,
    *,
    size: int = 0,
    link: bytes = b"",
    device: int = 0,
    extra: dict[bytes, bytes] | None = None,
) -> bytes:
    mode = stat.S_IMODE(info.st_mode)
    owner = {"uid": info.st_uid, "gid": info.st_gid}
    return header(path, kind, mode, **owner, mtime_ns=info.st_mtime_ns, size=size, link=link, device=device, extra=extra)


def _file(path: bytes, name: bytes, dir_fd: int) -> Iterator[bytes]:
    # Non-blocking, and looked at again: a running container may have put a fifo here since the walk saw a file.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return
        size, extra = info.st_size, _portable(dir_fd, name)
        has_holes = info.st_blocks * 512 + _SPARSE_MINIMUM <= size
        extents = fs.data_extents(fd, size) if has_holes else [(0, size)]
        if extents == [(0, size)]:
            yield _head(path, REGULAR, info, size=size, extra=extra)
            yield from _read(fd, 0, size)
            yield bytes(-size % BLOCK)
        else:
            yield from _sparse(path, fd, info, extents, extra)
    finally:
        os.close(fd)


def _sparse(
    path: bytes, fd: int, info: os.stat_result, extents: list[tuple[int, int]], extra: dict[bytes, bytes]
) -> Iterator[bytes]:
    """GNU's pax format 1.0: the map stands in front of the data."""
    size = info.st_size
    if not extents or extents[-1][1] < size:
        extents.append((size, size))  # a hole at the end is marked by an empty extent
    text = b"%d\n" % len(extents) + b"".join(b"%d\n%d\n" % (start, end - start) for start, end in extents)
    text += bytes(-len(text) % BLOCK)
    stored = len(text) + sum(end - start for start, end in extents)
    extra |= {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": path}
    extra[b"GNU.sparse.realsize"] = b"%d" % size
    shadow = os.path.join(os.path.dirname(path), b"GNUSparseFile.0", os.path.basename(path))
    yield _head(shadow, REGULAR, info, size=stored, extra=extra) + text
    for start, end in extents:
        yield from _read(fd, start, end)
    yield bytes(-stored % BLOCK)


def _read(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        data = os.pread(fd, min(_PIECE, end - start), start)
        if not data:  # shrunk while we read: the header has promised, so zeros fill up
            data = bytes(min(_PIECE, end - start))
        start += len(data)
        yield data


def _portable(dir_fd: int, name: bytes) -> dict[bytes, bytes]:
    attributes = trees.xattrs(trees.fd_path(dir_fd, name))
    return {b"SCHILY.xattr." + os.fsencode(key): value for key, value in attributes.items() if trees.is_portable(key)}
