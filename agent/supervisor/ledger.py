"""What has become of all containers since their creation: one file a state directory, the newest entry of a container counts.

    header   MAGIC and a salt, 8 bytes each
    entry    u32 length of the text, 8 bytes of checksum, "<id> <values as JSON>"
    …
    zeros, up to the file's end

An entry that was appended survives our own kill -9 (the page cache does); what was committed survives a power cut, and all the
rest does so within SOON seconds. The file's blocks exist before they are used: a commit is one fdatasync that changes no
metadata, so it waits for nobody else's, and a full disk does not keep an end from being recorded. A checksum covers its entry
and the checksum before (the first one, the salt): a torn end is not read, nor anything that stood behind it. When the file is
full, the newest entries of containers that still have a directory move to a new one.
"""

from __future__ import annotations

import os
import struct
from _blake2 import blake2s

from agent.supervisor import durable, jsontext
from agent.supervisor.loop import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILE = ".ledger"  # no container's id begins with a dot
MAGIC = b"wharf-l1"
SMALLEST = 256 << 10  # bytes
SOON = 5.0  # s
_USUAL = 1 << 10  # bytes that hold nearly every entry
_PIECE = 16 << 10  # bytes of zeros at a time
_SPARE = 4  # a new file has room for this many times what moves into it
_HEAD = struct.Struct("<I8s")
_START = len(MAGIC) + 8


class Ledger:
    """Opened, or made, by `newest` or at the first use. `later`: see Loop.

    A disk that is full or broken is told, life goes on in memory, and what could not be noted is when there is room again.
    """

    def __init__(self, directory: str, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._directory = directory
        self._path = os.path.join(directory, FILE)
        self._fd = -1
        self._size = self._end = 0  # bytes of the file, and of what is used of it
        self._chain = b""  # the last checksum
        self._batch: dict[str, bytes] = {}
        self._ailing = False  # the last attempt failed, which was told
        self._loose = False  # something is not durable yet, and a timer runs for it

    def newest(self) -> dict[str, tuple[int, int]]:
        """Where each container's newest entry stands, for `read`. Reads the whole file; makes it when there is none."""
        try:
            self._open()
            if self._fd < 0:
                self._renew(0)
        except OSError as error:
            report(error)
        return self._scan()[0] if self._fd >= 0 else {}

    def read(self, place: tuple[int, int]) -> dict[str, Any]:
        """The values at one of the places that `newest` found."""
        id_, _, text = os.pread(self._fd, place[1], place[0]).partition(b" ")
        values: dict[str, Any] = jsontext.loads(text)
        return {**values, "id": id_.decode()}

    def append(self, id_: str, values: dict[str, Any]) -> None:
        """Note the newest values of a container, all of them."""
        self.enlist(id_, values)
        try:
            self._write()
        except OSError as error:
            self._fail(error)
        self._sync_soon()

    def enlist(self, id_: str, values: dict[str, Any]) -> None:
        """The same, with the next `commit`."""
        self._batch[id_] = b"%s %s" % (id_.encode(), jsontext.dumps(values))

    def commit(self) -> None:
        """Make what was enlisted durable, with one wait for the disk. Nothing when there is nothing."""
        if self._batch:
            self._sync()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        """Go on with the file there is, if there is one. Raises OSError."""
        if self._fd >= 0:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        self._fd, self._size = fd, os.fstat(fd).st_size
        if os.pread(fd, len(MAGIC), 0) != MAGIC:
            self.close()
            os.rename(self._path, self._path + ".damaged")
            report(ValueError(f"{self._path} is no ledger that this version could read: it is kept as {FILE}.damaged"))
            return
        _places, self._end, self._chain = self._scan()
        self._sync_soon()  # what our predecessor left

    def _scan(self) -> tuple[dict[str, tuple[int, int]], int, bytes]:
        """(places, where the entries end, the last checksum). Entry by entry: a large buffer would stay in the heap for good."""
        places: dict[str, tuple[int, int]] = {}
        size = os.fstat(self._fd).st_size
        position, chain = _START, os.pread(self._fd, 8, len(MAGIC))
        while len(data := os.pread(self._fd, _USUAL, position)) >= _HEAD.size:
            length, checksum = _HEAD.unpack_from(data)
            begin = position + _HEAD.size
            if not length or begin + length > size:
                break
            text = data[_HEAD.size : _HEAD.size + length]
            if len(text) < length:
                text = os.pread(self._fd, length, begin)
            if _checksum(text, chain) != checksum:
                break
            places[text.partition(b" ")[0].decode()] = (begin, length)
            position, chain = begin + length, checksum
        return places, position, chain

    def _write(self) -> None:
        """Put the batch where the entries end. Raises OSError, and the batch stays."""
        need = sum(map(len, self._batch.values())) + _HEAD.size * len(self._batch)
        self._open()
        if self._end + need > self._size:
            self._renew(need)
        data, chain = _entries(list(self._batch.values()), self._chain)
        _write_at(self._fd, data, self._end)
        self._end, self._chain = self._end + len(data), chain
        self._batch.clear()

    def _renew(self, need: int) -> None:
        """Move to a new file with room for `need` bytes, durably. Raises OSError; the old file is as before then."""
        present = set(os.listdir(self._directory))
        kept = []
        if self._fd >= 0:
            kept = [os.pread(self._fd, size, at) for id_, (at, size) in self._scan()[0].items() if id_ in present]
        salt = os.urandom(8)
        data, chain = _entries(kept, salt)
        size = max(SMALLEST, _SPARE * (_START + len(data) + need))
        temporary = self._path + ".tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_at(fd, MAGIC + salt + data, 0)
            end = _START + len(data)
            for position in range(end, size, _PIECE):
                _write_at(fd, bytes(min(_PIECE, size - position)), position)
            os.fsync(fd)
            os.rename(temporary, self._path)
            durable.sync_directory(self._directory)
        except OSError:
            os.close(fd)
            os.unlink(temporary)  # a full disk needs the room
            raise
        self.close()
        self._fd, self._size, self._end, self._chain = fd, size, end, chain

    def _fail(self, error: OSError) -> None:
        """What the kernel could not write it may call written the next time: only a new file can be believed."""
        if not self._ailing:
            report(error)
        self._ailing = True
        self._size = 0
        self._sync_soon()

    def _sync_soon(self) -> None:
        if not self._loose:
            self._loose = True
            self._later(SOON, self._be_sure)

    def _be_sure(self) -> None:
        self._loose = False
        self._sync()

    def _sync(self) -> None:
        try:
            if self._batch or not self._size:
                self._write()
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)
        else:
            self._ailing = False


def _checksum(text: bytes, chain: bytes) -> bytes:
    return blake2s(text, digest_size=8, key=chain).digest()


def _entries(texts: list[bytes], chain: bytes) -> tuple[bytes, bytes]:
    """(the entries' bytes, the last checksum)."""
    parts: list[bytes] = []
    for text in texts:
        chain = _checksum(text, chain)
        parts += (_HEAD.pack(len(text), chain), text)
    return b"".join(parts), chain


def _write_at(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written
