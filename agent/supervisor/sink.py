"""A container's way to a log service: a queue that a slow service fills, and a connection that is made again when it breaks.

Nothing here waits. With mode=blocking a full queue makes the container wait (its output is read no further, as Docker's); with
mode=non-blocking, and whenever the service is away, the oldest entries are dropped and counted.
"""

from __future__ import annotations

import _socket
import os
import time

from agent.supervisor.loop import WRITE, Loop, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from typing import Any

    from agent.protocol.logoptions import LogSettings
else:
    from _collections import deque  # collections itself costs 0.4 MB

FIRST, LAST = 0.25, 30.0  # s between two attempts to connect
LINGER = 10.0  # s that an ended container's last entries are given to leave
_SLOW = "the log service is slow, and mode=non-blocking drops what it does not take in time"
_GATHER = 64  # entries in one write of a stream


class Sink:
    """Base of journald and syslog. `eased` is called when a full queue has room again, `dropped` with (bytes, why)."""

    stream = False  # a connection of bytes, where an entry may go out in parts

    def __init__(
        self,
        loop: Loop,
        container_id: str,
        settings: LogSettings,
        eased: Callable[[], None],
        dropped: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._blocking = settings.blocking
        self._limit = settings.buffer
        self._eased = eased
        self._dropped = dropped
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._begun = 0  # bytes of the first entry that are out (streams)
        self._sock: _socket.socket | None = None
        self._connecting = False
        self._why = _SLOW  # why entries would be dropped now
        self._pause = 0.0
        self._retry: Timer | None = None
        self._end_by = 0.0  # monotonic; 0 while the container runs
        self._gone: Callable[[], None] = _nothing
        self.prepare(container_id, settings)

    # ---- what a service is

    def prepare(self, container_id: str, settings: LogSettings) -> None:
        """Note what every entry says of the container."""
        raise NotImplementedError

    def frames(self, stream: str, lines: list[bytes]) -> list[bytes]:
        """Entries as they travel."""
        raise NotImplementedError

    def connect(self) -> _socket.socket:
        """A socket that does not block, connected or connecting. Raises OSError."""
        raise NotImplementedError

    def send(self, sock: _socket.socket, entry: bytes) -> None:
        """One entry, on a socket of datagrams. Raises BlockingIOError, OSError."""
        sock.send(entry)

    # ---- what the log does with it

    @property
    def full(self) -> bool:
        """Whether the container has to wait."""
        return self._blocking and self._queued >= self._limit and self._sock is not None and not self._end_by

    def write(self, stream: str, lines: list[bytes]) -> None:
        for frame in self.frames(stream, lines):
            self._queue.append(frame)
            self._queued += len(frame)
        if self._sock is None and self._retry is None:
            self._open()
        elif not self._connecting and self._sock is not None:
            self._flush()
        self._trim()

    def end(self, gone: Callable[[], None]) -> None:
        """The container has ended: send what is left, for LINGER seconds at most, then close; `gone` is called then."""
        self._gone = gone
        self._end_by = time.monotonic() + LINGER
        if not self._queue:
            self.close()
        else:
            self._loop.at(self._end_by, self._give_up)

    def close(self) -> None:
        """At once. What is queued is lost."""
        self._disconnect()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._queue.clear()
        self._queued = 0
        gone, self._gone = self._gone, _nothing
        gone()

    def dump(self) -> dict[str, Any]:
        """For the handover (entries as latin-1 text). A connection still being made is made anew."""
        fd = self._sock.fileno() if self._sock is not None and not self._connecting else -1
        return {"fd": fd, "begun": self._begun, "queue": [frame.decode("latin-1") for frame in self._queue]}

    def resume(self, dumped: dict[str, Any]) -> None:
        """The other half of `dump`."""
        for text in dumped["queue"]:
            frame = text.encode("latin-1")
            self._queue.append(frame)
            self._queued += len(frame)
        if dumped["fd"] >= 0:
            os.set_inheritable(dumped["fd"], False)
            self._begun = dumped["begun"]
            self._sock = _socket.socket(fileno=dumped["fd"])
            self._sock.setblocking(False)
            self._flush()
        elif self._queue:
            self._open()

    # ---- the connection

    def _open(self) -> None:
        self._retry = None
        try:
            self._sock = self.connect()
        except OSError as error:
            self._lost(error)
            return
        self._connecting = self.stream
        if self._connecting:
            self._watch()  # writable, or in error, once the connection is made
        else:
            self._made()

    def _ready(self) -> None:
        if self._sock is None:
            return
        if self._connecting:
            number = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if number:
                self._lost(OSError(number, os.strerror(number)))
                return
            self._made()
            return
        self._flush()

    def _made(self) -> None:
        self._connecting = False
        self._pause = 0.0
        self._why = _SLOW
        self._flush()

    def _flush(self) -> None:
        """Send until there is nothing left, or the service is slow (then: when it can take more)."""
        if self._sock is None:
            return
        try:
            while self._queue:
                self._send_some(self._sock)
        except BlockingIOError:
            self._watch()
            return
        except OSError as error:
            self._lost(error)
            return
        self._loop.forget(self._sock.fileno())
        if self._end_by:
            self.close()
        else:
            self._eased()

    def _send_some(self, sock: _socket.socket) -> None:
        if not self.stream:
            self.send(sock, self._queue[0])
            self._taken()
            return
        gather = [memoryview(frame) for _, frame in zip(range(_GATHER), self._queue, strict=False)]
        gather[0] = gather[0][self._begun :]
        self._begun += sock.sendmsg(gather, [], _socket.MSG_NOSIGNAL)
        while self._queue and self._begun >= len(self._queue[0]):
            self._begun -= len(self._queue[0])
            self._taken()

    def _taken(self) -> None:
        self._queued -= len(self._queue.popleft())

    def _watch(self) -> None:
        if self._sock is not None:
            self._loop.watch(self._sock.fileno(), WRITE, lambda _events: self._ready())

    def _lost(self, error: OSError) -> None:
        self._disconnect()
        if self._end_by and time.monotonic() >= self._end_by:
            self._give_up()
            return
        self._pause = min(max(FIRST, self._pause * 2), LAST)
        if self._retry is None:
            self._retry = self._loop.later(self._pause, self._open)
        self._why = f"the log service is away: {error.strerror}"
        self._trim()
        self._eased()  # it does not wait for a service that is away

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._connecting = False
        self._begun = 0  # a stream's first entry goes out anew, whole

    def _trim(self) -> None:
        """Drop the oldest above the limit, but never the entry that is half out."""
        if self._queued <= self._limit or (self._blocking and self._sock is not None):
            return
        half = self._queue.popleft() if self._begun else None
        lost = 0
        while self._queue and self._queued > self._limit:
            lost += len(self._queue[0])
            self._taken()
        if half is not None:
            self._queue.appendleft(half)
        if lost:
            self._dropped(lost, self._why)

    def _give_up(self) -> None:
        if self._queue:
            self._dropped(self._queued, f"the log service took nothing for {LINGER:.0f} s after the container's end")
            self.close()


def _nothing() -> None:
    """Nobody waits for the end."""
