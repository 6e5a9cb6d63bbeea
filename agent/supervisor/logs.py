"""Container logs in Docker's json-file format: {"log": "…\\n", "stream": "stdout", "time": RFC 3339 with nanoseconds} a line.

Bytes that are not UTF-8 become lone surrogates U+DC80..U+DCFF (Python's surrogateescape), so a reader that encodes `log` with
("utf-8", "surrogateescape") gets the container's bytes back exactly; Docker's own readers show U+FFFD, as with Docker's logs.
A line longer than CHUNK is written in pieces; only the last piece ends in a newline.
"""

from __future__ import annotations

import os
import struct
import time

from agent.protocol.errors import InvalidInput
from agent.supervisor import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 16 << 10  # bytes of a partial line, as Docker's copier
_TAIL = struct.Struct("=IQQ")  # length of what follows; inode and size of the log before the batch
_TAIL_MOST = _TAIL.size + CHUNK + (64 << 10)
_NO_BATCH = (1 << 64) - 1
DEFAULT = {"driver": "json-file", "max-size": 10 << 20, "max-file": 3}


class InvalidLogOptions(InvalidInput):
    """The log driver or one of its options cannot work."""

    code = "invalid_log_options"


def validate(options: dict[str, Any]) -> None:
    """Raises InvalidLogOptions. driver: json-file or none; max-size: bytes (0 = never rotate); max-file: at least 1."""
    driver = options.get("driver", "json-file")
    if driver not in ("json-file", "none"):
        raise InvalidLogOptions(f"log driver {driver!r} is not supported: use json-file or none")
    for key, least in (("max-size", 0), ("max-file", 1)):
        value = options.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidLogOptions(f"log option {key} is {value!r}: it has to be a whole number of at least {least}")


class Splitter:
    """Bytes of one stream into lines.

    The tail file keeps what is in nobody's log yet: the unfinished line, and, while a batch is being written, the batch, with the
    mark of the log (inode, size) from before it. So neither execv nor kill -9 loses or doubles a line, but for the moment between
    the read from the FIFO and `journal`.
    """

    def __init__(self, tail_path: str) -> None:
        self._fd = os.open(tail_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._clean = True  # the file says what `pending` says
        self.interrupted: tuple[bytes, int, int] | None = None  # a batch that a kill cut short, with the log's mark
        self.pending = b""
        data = os.pread(self._fd, _TAIL_MOST, 0)
        if len(data) >= _TAIL.size:
            length, inode, size = _TAIL.unpack_from(data)
            rest = data[_TAIL.size : _TAIL.size + length]
            if inode == _NO_BATCH:
                self.pending = rest
            else:
                self.interrupted = (rest, inode, size)

    def journal(self, data: bytes, mark: tuple[int, int]) -> None:
        """Before a batch: keep it until `save`."""
        self._write(self.pending + data, *mark)

    def feed(self, data: bytes) -> list[bytes]:
        """Lines and full chunks that `data` completes."""
        pieces = (self.pending + data).split(b"\n") if self.pending else data.split(b"\n")
        self.pending = pieces.pop()
        lines: list[bytes] = []
        for piece in pieces:
            if len(piece) >= CHUNK:
                piece = _chunks(piece, lines)
            lines.append(piece + b"\n")
        if len(self.pending) >= CHUNK:
            self.pending = _chunks(self.pending, lines)
        return lines

    def flush(self) -> list[bytes]:
        """The unfinished line, at the end of the stream."""
        rest, self.pending = self.pending, b""
        self._clean = False
        return [rest] if rest else []

    def save(self) -> None:
        """After a batch: its lines are in the log, only the unfinished one is kept."""
        if not self._clean:
            self._write(self.pending, _NO_BATCH, 0)
            self._clean = True

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes, inode: int, size: int) -> None:
        self._clean = False
        try:
            os.pwrite(self._fd, _TAIL.pack(len(data), inode, size) + data, 0)
        except OSError:
            pass  # a full disk: a kill may now lose this batch


def _chunks(line: bytes, into: list[bytes]) -> bytes:
    """Cut full chunks off a long line, never inside a UTF-8 character; returns the rest."""
    start = 0
    while len(line) - start >= CHUNK:
        end = start + CHUNK
        back = end
        while back > end - 4 and back < len(line) and line[back] & 0xC0 == 0x80:
            back -= 1
        if back == end - 4:
            back = end  # not UTF-8 anyway
        into.append(line[start:back])
        start = back
    return line[start:]


class LogFile:
    """The rotating file json.log, json.log.1 (newer) … json.log.<max-file - 1>; or nothing, for driver none."""

    def __init__(self, directory: str, options: dict[str, Any]) -> None:
        self._path = os.path.join(directory, "json.log")
        self._max_size = int(options.get("max-size", DEFAULT["max-size"]))
        self._max_file = int(options.get("max-file", DEFAULT["max-file"]))
        self._fd = -1
        self._inode = self._size = 0
        self.dropped = 0  # bytes of output that did not reach the disk
        self.fault = ""  # why
        self._wanted = options.get("driver", "json-file") != "none"
        self._open()

    def write(self, stream: str, lines: list[bytes]) -> None:
        """Append lines of one stream, in as few writes as rotation allows. A full disk drops and counts, it never raises."""
        if not self._wanted or not lines:
            return
        if self._fd < 0:
            self._open()
        tail = f',"stream":"{stream}","time":"{_now()}"}}\n'
        batch: list[str] = []
        size = 0
        for line in lines:
            if self._max_size and self._size + size >= self._max_size:
                self._append("".join(batch), size)
                self._rotate()
                batch, size = [], 0
            text = '{"log":' + jsontext.quote(line.decode("utf-8", "surrogateescape")) + tail
            batch.append(text)
            size += len(text)  # ASCII: characters are bytes
        self._append("".join(batch), size)

    def mark(self) -> tuple[int, int]:
        """(inode, size): where the next batch begins. (0, 0) without a file."""
        return self._inode, self._size

    def rewind(self, inode: int, size: int) -> bool:
        """Cut off what was written after `mark`; False when the log was rotated since."""
        if (inode, size) == (0, 0) and self._fd < 0:
            return True
        if self._fd < 0 or inode != self._inode or size > self._size:
            return False
        os.ftruncate(self._fd, size)
        self._size = size
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        """Tried again at the next write if the disk is full now."""
        if not self._wanted:
            return
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            status = os.fstat(self._fd)
            self._inode, self._size = status.st_ino, status.st_size
        except OSError as error:
            self.fault = os.strerror(error.errno or 0)

    def _append(self, text: str, size: int) -> None:
        if not size:
            return
        if self._fd < 0:
            self.dropped += size
            return
        view = memoryview(text.encode("ascii"))
        written = 0
        try:
            while written < size:
                written += os.write(self._fd, view[written:])
        except OSError as error:
            whole = text.rfind("\n", 0, written) + 1  # half a line would spoil the next one
            self.dropped += size - whole
            self.fault = os.strerror(error.errno or 0)
            if written:
                self._size += whole
                os.ftruncate(self._fd, self._size)
            return
        self._size += size

    def _rotate(self) -> None:
        if self._fd < 0:
            return
        if self._max_file < 2:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        self.close()
        for number in range(self._max_file - 1, 0, -1):
            older = f"{self._path}.{number - 1}" if number > 1 else self._path
            try:
                os.rename(older, f"{self._path}.{number}")
            except FileNotFoundError:
                pass  # not that many yet
        self._open()


_second = (-1, "")  # the last second formatted


def _now() -> str:
    """UTC now, RFC 3339 with nine digits."""
    global _second
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    if seconds != _second[0]:
        _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    return f"{_second[1]}.{nanos:09d}Z"
