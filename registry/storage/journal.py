"""A journal of small blobs: one write to space that is there already, and one fdatasync, make many of them durable at once.

A new file is expensive to make durable: its inode, its directory entry and its blocks wait for the file system's own journal. So
the bytes of small blobs go into this journal first; their files are then written and renamed without waiting. When the journal is
full, one sync of the file system makes those files durable for themselves and the journal begins anew.

    offset 0      magic, generation: records of other generations are leftovers
    offset 4096   records: magic, generation, length, CRC-32 of what follows, digest as text (135 bytes, padded), the bytes

A process has journals of its own and holds flock on them. A journal that nobody holds was left by a process that was killed or by
a power cut: `records` gives back what it holds, and the files that did not reach the disk are written again.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator

from agent.protocol.oci import Digest

SIZE = 16 << 20
_HEADER = struct.Struct("<8sQ")
_RECORD = struct.Struct("<8sQII135s")
_MAGIC, _RECORD_MAGIC = b"wharfjn1", b"wharfrec"
_FIRST = 4096


class Journal:
    """One file of SIZE bytes below `directory`. Not thread-safe: FilesystemStore holds a lock around `append` and `renew`."""

    def __init__(self, directory: str) -> None:
        self.path, self._fd = _new_file(directory)
        try:
            # Written, not only allocated: space that was never written changes the file's map when it is.
            for start in range(0, SIZE, 1 << 20):
                os.pwrite(self._fd, bytes(1 << 20), start)
            self._generation = int.from_bytes(os.urandom(7), "little")
            self._begin()
            os.fsync(self._fd)
            sync_directory(directory)
        except BaseException:
            os.close(self._fd)
            os.unlink(self.path)
            raise

    def _begin(self) -> None:
        self._generation += 1
        self._offset = _FIRST
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, self._generation), 0)

    def append(self, items: list[tuple[Digest, bytes]]) -> bool:
        """Make the items durable, or say False when they do not fit."""
        pieces = []
        for digest, data in items:
            name = str(digest).encode().ljust(135)
            checksum = zlib.crc32(data, zlib.crc32(name))
            pieces += [_RECORD.pack(_RECORD_MAGIC, self._generation, len(data), checksum, name), data]
        raw = b"".join(pieces)
        if self._offset + len(raw) > SIZE:
            return False
        view, position = memoryview(raw), self._offset
        while view:
            written = os.pwrite(self._fd, view, position)
            view, position = view[written:], position + written
        os.fdatasync(self._fd)
        self._offset = position
        return True

    def renew(self) -> None:
        """Forget the records: their files are durable by now."""
        self._begin()
        os.fdatasync(self._fd)


def _new_file(directory: str) -> tuple[str, int]:
    """(path, descriptor) of an empty file that is locked."""
    while True:
        path = os.path.join(directory, uuid.uuid4().hex)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)  # whoever recovers was quicker with the lock, and took it for one that was left


def left(directory: str) -> Iterator[tuple[str, int]]:
    """(path, descriptor that holds its lock) of each journal whose process is gone. The caller closes the descriptor."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another process recovered it
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if not os.fstat(fd).st_nlink:  # recovered between our open and our lock
            os.close(fd)
            continue
        yield path, fd


def records(fd: int) -> Iterator[tuple[Digest, bytes]]:
    """What a journal holds, up to the first record that is not whole."""
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return
    magic, generation = _HEADER.unpack(header)
    position = _FIRST
    while magic == _MAGIC:
        head = os.pread(fd, _RECORD.size, position)
        if len(head) < _RECORD.size:
            return
        record, own, length, checksum, name = _RECORD.unpack(head)
        data = os.pread(fd, length, position + _RECORD.size) if (record, own) == (_RECORD_MAGIC, generation) else b""
        if (record, own) != (_RECORD_MAGIC, generation) or len(data) != length or zlib.crc32(data, zlib.crc32(name)) != checksum:
            return
        yield Digest.parse(name.decode().strip()), data
        position += _RECORD.size + length


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """Everything that was written to the file system of `path` (syncfs(2)); raises OSError when any of it could not be."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


_LIBC = ctypes.CDLL(None, use_errno=True)


class Pair:
    """Two journals: while the files of one are made durable, the other takes what comes. `root` is the store's directory."""

    def __init__(self, root: str, directory: str) -> None:
        self._root = root
        self._active, self._other = Journal(directory), Journal(directory)
        self._lock = threading.Lock()
        self._renewing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def append(self, items: list[tuple[Digest, bytes]], publish: Callable[[], None]) -> bool:
        """Make the items durable and `publish` their files before the journal may begin anew.

        False, with nothing done, when there is no room now: both are full, or it is more than a journal takes.
        """
        with self._lock:
            if not self._active.append(items) and not (self._switch() and self._active.append(items)):
                return False
            publish()
            return True

    def _switch(self) -> bool:
        if self._renewing is not None and self._renewing.is_alive():
            return False
        if self._failure is not None:
            raise OSError("small blobs could not be made durable") from self._failure
        full, self._active = self._active, self._other
        self._other = full
        self._renewing = threading.Thread(target=self._renew, args=(full,), name="registry-journal", daemon=True)
        self._renewing.start()
        return True

    def _renew(self, full: Journal) -> None:
        try:
            sync_filesystem(self._root)
            full.renew()
        except OSError as error:
            self._failure = error
