"""The rotating file of a container's log: <base>, <base>.1 (newer) … <base>.<max-file - 1>, some of them as <base>.<n>.gz."""

from __future__ import annotations

import os

from agent.supervisor import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.protocol.logoptions import LogSettings


class LogFile:
    """Of driver json-file, or (any other driver) in the format of `local`. `rotated` is told the base whenever it was rotated."""

    __slots__ = ("_fd", "_frames", "_inode", "_local", "_max_file", "_max_size", "_path", "_rotated", "_size", "dropped", "fault")

    def __init__(self, directory: str, settings: LogSettings, rotated: Callable[[str], None] | None = None) -> None:
        self._local = settings.driver != "json-file"
        self._frames = frames.local_frames if self._local else frames.json_framer(settings.attributes)
        self._path = os.path.join(directory, frames.LOCAL if self._local else frames.JSON)
        self._max_size = settings.max_size
        self._max_file = settings.max_file
        self._rotated = rotated if settings.compress else None
        self._fd = -1
        self._inode = self._size = 0
        self.dropped = 0  # bytes of output that did not reach the disk
        self.fault = ""  # why
        self._open()

    def write(self, stream: str, lines: list[bytes]) -> None:
        """Append lines of one stream, one write unless it rotates between. A full disk drops and counts, it never raises."""
        if not lines:
            return
        if self._fd < 0:
            self._open()
        batch: list[bytes] = []
        size = 0
        for frame in self._frames(stream, lines):
            if self._max_size and self._size + size >= self._max_size:
                self._append(batch, size)
                self._rotate()
                batch, size = [], 0
            batch.append(frame)
            size += len(frame)
        self._append(batch, size)

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
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            status = os.fstat(self._fd)
            self._inode, self._size = status.st_ino, status.st_size
            if self._local and self._size:
                self._mend()
        except OSError as error:
            self.fault = os.strerror(error.errno or 0)

    def _mend(self) -> None:
        """Entries after a torn one could not be read."""
        whole = frames.whole_size(self._fd, self._size)
        if whole < self._size:
            os.ftruncate(self._fd, whole)
            self._size = whole

    def _append(self, batch: list[bytes], size: int) -> None:
        if not size:
            return
        if self._fd < 0:
            self.dropped += size
            return
        view = memoryview(b"".join(batch))
        written = 0
        try:
            while written < size:
                written += os.write(self._fd, view[written:])
        except OSError as error:
            whole = _whole(batch, written)  # part of an entry would spoil the next one
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
        for ending in ("", ".gz"):
            _move(f"{self._path}.{self._max_file - 1}{ending}", "")
            for number in range(self._max_file - 2, 0, -1):
                _move(f"{self._path}.{number}{ending}", f"{self._path}.{number + 1}{ending}")
        _move(self._path, f"{self._path}.1")
        self._open()
        if self._rotated is not None:
            self._rotated(self._path)


def _whole(batch: list[bytes], written: int) -> int:
    """Bytes of the entries of `batch` that are within its first `written` bytes."""
    total = 0
    for frame in batch:
        if total + len(frame) > written:
            break
        total += len(frame)
    return total


def _move(old: str, new: str) -> None:
    """Rename, or remove with new = "". Nothing when there are not that many yet."""
    try:
        os.rename(old, new) if new else os.unlink(old)
    except FileNotFoundError:
        pass
