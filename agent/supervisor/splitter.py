"""Bytes of one stream into lines, and the file that keeps what is in nobody's log yet.

A line longer than CHUNK is cut in pieces; only the last piece ends in a newline.
"""

from __future__ import annotations

import os
import struct

from agent.sys import tty

CHUNK = 16 << 10  # bytes of a partial line, as Docker's copier
_TAIL = struct.Struct("=IQQ")  # length of what follows, perhaps with _OPEN; inode and size of the log before the batch
_TAIL_MOST = _TAIL.size + CHUNK + (64 << 10)
_NO_BATCH = (1 << 64) - 1
_OPEN = 1 << 31  # the batch begins after the length and ends with the file


class Splitter:
    """Bytes of one stream into lines.

    The tail file keeps what is in nobody's log yet: the unfinished line and, while a batch is being written, the batch, with the
    mark of the log (inode, size) from before it. A batch goes from the FIFO into that file by splice(2): whatever the kernel took
    out of the one is in the other, and the file's size says how much it is. So neither execv nor kill -9 loses or doubles a line;
    but for a console, which cannot be spliced: there the moment between the read and the write to the file remains.
    """

    def __init__(self, tail_path: str) -> None:
        self._path = tail_path
        self._fd = -1  # until there is something to keep: many programs write nothing, or nothing to one of their streams
        self._clean = True  # the file says what `pending` says
        self.interrupted: tuple[bytes, int, int] | None = None  # a batch that a kill cut short, with the log's mark
        self.pending = b""
        data = self._read_tail()
        if len(data) >= _TAIL.size:
            length, inode, size = _TAIL.unpack_from(data)
            rest = data[_TAIL.size :] if length & _OPEN else data[_TAIL.size : _TAIL.size + length]
            if inode == _NO_BATCH:
                self.pending = rest
            else:
                self.interrupted = (rest, inode, size)

    def take(self, fifo: int, most: int, mark: tuple[int, int]) -> bytes:
        """A batch from a pipe that never ends, kept until `save`. Raises BlockingIOError when there is none."""
        if not tty.waiting(fifo):
            raise BlockingIOError
        end = _TAIL.size + len(self.pending)
        self._clean = False
        try:
            self._open()
            os.ftruncate(self._fd, end)  # before the mark: whatever is beyond counts as the batch then
            os.pwrite(self._fd, _TAIL.pack(len(self.pending) | _OPEN, *mark) + self.pending, 0)
            return os.pread(self._fd, os.splice(fifo, self._fd, most, None, end, os.SPLICE_F_NONBLOCK), end)
        except BlockingIOError:
            self.save()
            raise
        except OSError:  # a full disk
            return self.read(fifo, most, mark)

    def read(self, console: int, most: int, mark: tuple[int, int]) -> bytes:
        """The same from a console. Raises BlockingIOError, OSError; b"" at its end."""
        data = os.read(console, most)
        self._write(self.pending + data, *mark)
        return data

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
        if not self.pending:
            return []
        rest, self.pending = self.pending, b""
        self._clean = False
        return [rest]

    def save(self) -> None:
        """After a batch: its lines are in the log, only the unfinished one is kept."""
        if not self._clean:
            self._write(self.pending, _NO_BATCH, 0)
            self._clean = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _read_tail(self) -> bytes:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        return os.pread(self._fd, _TAIL_MOST, 0)

    def _write(self, data: bytes, inode: int, size: int) -> None:
        self._clean = False
        try:
            self._open()
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
