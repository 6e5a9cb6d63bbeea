"""Where a container's output goes: a file (the log itself, or the cache that `logs` reads) and, for some drivers, a service."""

from __future__ import annotations

from agent.protocol.logoptions import LogSettings
from agent.supervisor.journald import JournaldSink
from agent.supervisor.logfile import LogFile
from agent.supervisor.syslog import SyslogSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.loop import Loop
    from agent.supervisor.sink import Sink


class LogParts:
    """What a log needs of its surroundings. `rotated`: see LogFile; `lingering`: sinks that outlive their container."""

    __slots__ = ("lingering", "loop", "rotated")

    def __init__(self, loop: Loop, rotated: Callable[[str], None] | None = None) -> None:
        self.loop = loop
        self.rotated = rotated
        self.lingering: dict[Sink, tuple[str, dict[str, Any]]] = {}  # with container and options

    def dump(self) -> list[Any]:
        """For the handover: [[container, options, see Sink.dump]…]"""
        return [[id_, log, sink.dump()] for sink, (id_, log) in self.lingering.items()]

    def resume(self, dumped: list[Any]) -> None:
        """The other half of `dump`."""
        for id_, log, state in dumped:
            sink = _sink(self.loop, id_, LogSettings(log), _nothing, lambda _count, _why: None)
            if sink is not None:
                self.linger(sink, id_, log)
                sink.resume(state)

    def linger(self, sink: Sink, id_: str, log: dict[str, Any]) -> None:
        """Let a sink go on by itself until it has sent what it holds."""
        self.lingering[sink] = (id_, log)

        def gone() -> None:
            del self.lingering[sink]

        sink.end(gone)


class Log:
    """One container's. `eased` is called when `full` has become false."""

    __slots__ = ("_dropped", "_fault", "_file", "_id", "_options", "_parts", "_sink")

    def __init__(
        self, parts: LogParts, directory: str, container_id: str, log: dict[str, Any], eased: Callable[[], None]
    ) -> None:
        settings = LogSettings(log)
        self._parts, self._id, self._options = parts, container_id, log
        self._file = LogFile(directory, settings, parts.rotated) if settings.cached else None
        self._sink = _sink(parts.loop, container_id, settings, eased, self._drop)
        self._dropped = 0
        self._fault = ""

    @property
    def full(self) -> bool:
        """Whether the container has to wait for the service."""
        return self._sink is not None and self._sink.full

    @property
    def dropped(self) -> int:
        """Bytes that a full disk, or a service that was slow or away, cost this run."""
        return self._dropped + (self._file.dropped if self._file else 0)

    @property
    def fault(self) -> str:
        """Why the last of them were dropped."""
        return self._fault or (self._file.fault if self._file else "")

    def write(self, stream: str, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._file is not None:
            self._file.write(stream, lines)
        if self._sink is not None:
            self._sink.write(stream, lines)

    def mark(self) -> tuple[int, int]:
        """See LogFile.mark."""
        return self._file.mark() if self._file is not None else (0, 0)

    def rewind(self, inode: int, size: int) -> bool:
        """See LogFile.rewind. A service may get the batch twice: it cannot be taken back there."""
        return self._file.rewind(inode, size) if self._file is not None else True

    def end(self) -> None:
        """The container has ended: a service may take its time for the last entries."""
        sink, self._sink = self._sink, None
        if sink is not None:
            self._parts.linger(sink, self._id, self._options)
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def dump(self) -> dict[str, Any] | None:
        """For the handover; None when everything is on disk."""
        return self._sink.dump() if self._sink is not None else None

    def resume(self, dumped: dict[str, Any] | None) -> None:
        """The other half of `dump`."""
        if self._sink is not None and dumped is not None:
            self._sink.resume(dumped)

    def _drop(self, count: int, why: str) -> None:
        self._dropped += count
        self._fault = why


def _sink(
    loop: Loop, container_id: str, settings: LogSettings, eased: Callable[[], None], dropped: Callable[[int, str], None]
) -> Sink | None:
    kinds = {"journald": JournaldSink, "syslog": SyslogSink}
    if settings.driver not in kinds:
        return None
    return kinds[settings.driver](loop, container_id, settings, eased, dropped)


def _nothing() -> None:
    """Nobody waits for an ended container's service."""
