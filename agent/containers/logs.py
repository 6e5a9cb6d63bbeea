"""Reading what containers wrote: json-file logs across rotations, followed while they grow.

A line of the file is Docker's: {"log": text, "stream": "stdout" | "stderr", "time": RFC 3339 with nanoseconds}. `log` ends with a
newline unless the container's line was longer than 16 KiB and goes on in the next entry.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.protocol.codec import InvalidSpec
from agent.sys.inotify import Watch


@dataclass(frozen=True, slots=True)
class LogQuery:
    """`tail` -1 = all. `since`, `until`: unix seconds, 0 = no bound."""

    follow: bool = False
    tail: int = -1
    since: float = 0.0
    until: float = 0.0
    timestamps: bool = False
    stdout: bool = True
    stderr: bool = True

    def __post_init__(self) -> None:
        if not (self.stdout or self.stderr):
            raise InvalidSpec("logs: choose stdout, stderr or both", field="stdout")


@dataclass(frozen=True, slots=True)
class LogEntry:
    stream: str
    time: str
    text: str

    @property
    def unix(self) -> float:
        return rfc3339_seconds(self.time)

    def render(self, timestamps: bool) -> bytes:
        return (f"{self.time} {self.text}" if timestamps else self.text).encode("utf-8", "surrogateescape")


def log_files(directory: Path) -> list[Path]:
    """json.log.N … json.log.1, json.log: oldest first."""
    rotated = [path for path in directory.glob("json.log.*") if path.suffix[1:].isdigit()]
    rotated.sort(key=lambda path: int(path.suffix[1:]), reverse=True)
    return [*rotated, directory / "json.log"]


async def read_logs(
    directory: Path, query: LogQuery, *, ended: Callable[[], bool] = lambda: False
) -> AsyncGenerator[LogEntry, None]:
    """Entries that `query` asks for, oldest first.

    With `follow`, goes on until `ended()` says that the container has stopped and the file is read to its end.
    Rotation is seen by the inode of json.log: the old file is read to its end before the new one.
    """
    tail = _Follower(directory)
    for entry in _history(tail, query):
        yield entry
    if not query.follow:
        tail.close()
        return
    with Watch(directory) as watch:
        try:
            async for entry in _follow(tail, watch, query, ended):
                yield entry
        finally:
            tail.close()


def _history(tail: _Follower, query: LogQuery) -> Iterator[LogEntry]:
    entries = (entry for entry in tail.backlog() if _wanted(entry, query))
    if query.tail < 0:
        yield from entries
    elif query.tail:
        yield from deque(entries, maxlen=query.tail)
    else:
        deque(entries, maxlen=0)


async def _follow(tail: _Follower, watch: Watch, query: LogQuery, ended: Callable[[], bool]) -> AsyncGenerator[LogEntry, None]:
    while True:
        stopped = ended()
        for entry in tail.fresh():
            if query.until and entry.unix > query.until:
                return
            if _wanted(entry, query):
                yield entry
        if stopped:
            return
        await watch.changed(at_most=1.0)


def _wanted(entry: LogEntry, query: LogQuery) -> bool:
    if not (query.stdout if entry.stream == "stdout" else query.stderr):
        return False
    if not (query.since or query.until):
        return True
    moment = entry.unix
    return moment >= query.since and (not query.until or moment <= query.until)


class _Follower:
    """A position in a rotating set of files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._partial = b""

    def backlog(self) -> Iterator[LogEntry]:
        *rotated, _ = log_files(self._directory)
        for path in rotated:
            try:
                with path.open("rb") as file:
                    yield from _entries(file.read().splitlines(keepends=True))
            except FileNotFoundError:
                continue  # rotated away meanwhile: its successor has it
        yield from self.fresh()

    def fresh(self) -> Iterator[LogEntry]:
        """What was appended since the last call, over a rotation too."""
        while True:
            if self._fd < 0 and not self._open():
                return
            yield from self._drain()
            if self._is_current():
                return
            yield from self._drain()  # written between our read and the rotation
            self.close()

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._directory / "json.log", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._partial = b""
        return True

    def _is_current(self) -> bool:
        try:
            return os.stat(self._directory / "json.log").st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return True  # between the two renames of a rotation, or the container is being removed

    def _drain(self) -> Iterator[LogEntry]:
        while data := os.read(self._fd, 1 << 20):
            lines = (self._partial + data).splitlines(keepends=True)
            self._partial = b"" if lines[-1].endswith(b"\n") else lines.pop()
            yield from _entries(lines)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _entries(lines: list[bytes]) -> Iterator[LogEntry]:
    for line in lines:
        try:
            data = json.loads(line)
            yield LogEntry(data["stream"], data["time"], data["log"])
        except (ValueError, KeyError, TypeError):
            continue  # a line torn by a power loss: the ones around it stay readable


def rfc3339_seconds(text: str) -> float:
    """Unix seconds of a UTC RFC 3339 time with up to nine fractional digits."""
    main, _, fraction = text.rstrip("Z").partition(".")
    whole = datetime.strptime(main, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    return whole + float(f"0.{fraction or 0}")
