"""Reading what containers wrote: their logs across rotations, followed while they grow.

Both formats of supervisor.frames are read, compressed or not: the log itself, or the cache that the supervisor keeps beside a log
service. An entry's text ends with a newline unless the container's line was longer than 16 KiB and goes on in the next entry.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.protocol.codec import InvalidSpec
from agent.supervisor import frames
from agent.sys.inotify import Watch

_PIECE = 1 << 20  # bytes read at a time


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


def log_files(directory: Path, base: str) -> list[Path]:
    """<base>.N … <base>.1, <base>: oldest first; a rotated one may be .gz."""
    rotated: dict[int, Path] = {}
    for path in sorted(directory.glob(f"{base}.*"), reverse=True):  # the plain file after its .gz: it wins while both are there
        number = path.name[len(base) + 1 :].removesuffix(".gz")
        if number.isdecimal():
            rotated[int(number)] = path
    return [*(rotated[number] for number in sorted(rotated, reverse=True)), directory / base]


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
        self._base = frames.LOCAL if (directory / frames.LOCAL).exists() else frames.JSON
        self._take = _local_entries if self._base == frames.LOCAL else _json_entries
        self._fd = -1
        self._partial = b""

    def backlog(self) -> Iterator[LogEntry]:
        *rotated, _ = log_files(self._directory, self._base)
        for path in rotated:
            yield from self._pieces(_contents(path))
        yield from self.fresh()

    def _pieces(self, data: bytes) -> Iterator[LogEntry]:
        rest = b""
        for start in range(0, len(data), _PIECE):
            entries, rest = self._take(rest + data[start : start + _PIECE])
            yield from entries

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
            self._fd = os.open(self._directory / self._base, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._partial = b""
        return True

    def _is_current(self) -> bool:
        try:
            return os.stat(self._directory / self._base).st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return True  # between the two renames of a rotation, or the container is being removed

    def _drain(self) -> Iterator[LogEntry]:
        while data := os.read(self._fd, _PIECE):
            entries, self._partial = self._take(self._partial + data)
            yield from entries

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _contents(path: Path) -> bytes:
    """Of a rotated file, decompressed; b"" when it was rotated away meanwhile (its successor has it)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        compressed = path.with_name(f"{path.name}.gz")
        if path.suffix == ".gz" or not compressed.exists():
            return b""
        path, data = compressed, compressed.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _json_entries(data: bytes) -> tuple[list[LogEntry], bytes]:
    """The whole entries of `data`, and the rest."""
    whole, newline, rest = data.rpartition(b"\n")
    return list(_entries(whole.split(b"\n"))) if newline else [], rest


def _local_entries(data: bytes) -> tuple[list[LogEntry], bytes]:
    found, taken = frames.read_local(data)
    entries = [
        LogEntry(stream, frames.rfc3339(moment), line.decode("utf-8", "surrogateescape")) for moment, stream, line in found
    ]
    return entries, data[taken:]


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
