"""Rotated logs become .gz, one file at a time in the whole supervisor, in a forked process of the lowest priority."""

from __future__ import annotations

import os

from agent.supervisor.loop import Loop, report
from agent.supervisor.processes import Exit, Processes, start_time
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 256 << 10
_GZIP = 31  # wbits of a gzip stream of the largest window (zlib.h)
UNFINISHED = ".compressing"


class Compressor:
    """A file is known by its inode: it may be rotated on, or away, while it is being compressed."""

    def __init__(self, loop: Loop, processes: Processes) -> None:
        self._loop = loop
        self._processes = processes
        self._bases: list[str] = []
        self.busy = False

    def want(self, base: str) -> None:
        """Have rotated files of `base` compressed."""
        if base not in self._bases:
            self._bases.append(base)
        if not self.busy:
            self.busy = True
            self._loop.later(0, self._next)  # not now: the writer is in the middle of a batch

    def _next(self) -> None:
        while self._bases:
            base = self._bases[0]
            found = rotated(base)
            try:
                if found and self._begin(base, found[-1]):
                    return
            except OSError as error:
                report(error)  # a full disk, most likely: the file stays as it is
            self._bases.pop(0)
        self.busy = False

    def _begin(self, base: str, path: str) -> bool:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            inode = os.fstat(source).st_ino
            try:
                os.unlink(base + UNFINISHED)  # of a supervisor that was killed; its process may still write to it
            except FileNotFoundError:
                pass
            target = os.open(base + UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                pid = forked(lambda: _compress(source, target), [source, target])
            finally:
                os.close(target)
        finally:
            os.close(source)
        self._processes.track(pid, os.pidfd_open(pid), start_time(pid) or 0, lambda exit_: self._done(base, inode, exit_))
        return True

    def _done(self, base: str, inode: int, exit_: Exit) -> None:
        try:
            _settle(base, inode, exit_.code == 0)
            if exit_.code != 0 and base in self._bases:
                self._bases.remove(base)  # tried again after the next rotation
        except OSError as error:
            report(error)
            if base in self._bases:
                self._bases.remove(base)
        self._loop.later(0, self._next)


def rotated(base: str) -> list[str]:
    """Rotated files of `base` that are not compressed, newest first. Nothing when the container is gone."""
    directory, name = os.path.split(base)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    numbers = [
        int(other[len(name) + 1 :]) for other in names if other.startswith(name + ".") and other[len(name) + 1 :].isdecimal()
    ]
    return [f"{base}.{number}" for number in sorted(numbers)]


def _settle(base: str, inode: int, good: bool) -> None:
    """Put the compressed file in the place of the one it was made from, wherever that is by now."""
    path = next((path for path in rotated(base) if os.stat(path).st_ino == inode), "")
    if not good or not path:
        try:
            os.unlink(base + UNFINISHED)
        except FileNotFoundError:
            pass  # the container was removed
        return
    os.rename(base + UNFINISHED, path + ".gz")
    os.unlink(path)  # a reader that sees both takes this one


def forked(work: Callable[[], None], keep: list[int]) -> int:
    """Run `work` in a child that shares nothing with the supervisor but `keep`; its pid. It exits 0 unless `work` raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        process.reset_signals()
        process.close_all_but(keep)
        work()
        code = 0
    except Exception as error:  # noqa: BLE001  # the child's last word; what it did not do shows in its exit code
        report(error)
    finally:
        os._exit(code)


def _compress(source: int, target: int) -> None:
    import zlib  # only here: in the supervisor it would be memory for nothing

    os.nice(19)
    machine = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    while data := os.read(source, _PIECE):
        _write(target, machine.compress(data))
    _write(target, machine.flush())
    os.fsync(target)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
