"""One client of the socket: what it asks, what it is owed."""

from __future__ import annotations

import _socket
import os
import struct

from agent.protocol.errors import WharfError
from agent.supervisor import wire
from agent.supervisor.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence
    from typing import Any
else:
    from _collections import deque  # collections itself costs 0.4 MB

BACKLOG = 4 << 20  # bytes of unread answers and events until a client is cut off: it lists anew when it comes back
_ROUNDS = 32  # requests of one client before the loop serves the others


class Connection:
    """`asked` is called with every message and its descriptors, which it owns; `closed` once, at the end."""

    def __init__(
        self,
        loop: Loop,
        sock: _socket.socket,
        asked: Callable[[Connection, dict[str, Any], list[int]], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._asked = asked
        self._closed = closed
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued = 0
        self.subscribed = False
        self.keeps = False  # it is a store of descriptors too
        self.alive = True
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
        self._writing = False
        self._held = False
        self._watch()

    def fileno(self) -> int:
        return self._sock.fileno()

    def peer_pid(self) -> int:
        """The process that connected (unix(7), SO_PEERCRED)."""
        pid: int = struct.unpack("3i", self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))[0]
        return pid

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send, or queue for a slow client, or cut off one that is too slow. The descriptors stay the caller's."""
        if not self.alive:
            return
        data, copies = wire.pack(message, fds)
        self._queue.append((data, copies))
        self._queued += len(data) + 256
        if len(self._queue) == 1:
            self._flush()
        if self._queued > BACKLOG:
            self.close()

    def answer(self, number: Any, ok: dict[str, Any], fds: Sequence[int] = ()) -> None:
        self.send({"n": number, "ok": ok}, fds)

    def refuse(self, number: Any, error: WharfError) -> None:
        self.send({"n": number, "error": error.as_dict()})

    def hold(self, held: bool) -> None:
        """Take no more questions, or do it again."""
        self._held = held
        self._watch()

    def dump(self) -> dict[str, Any]:
        """For the handover (packets as latin-1 text)."""
        queue = [[data.decode("latin-1"), fds] for data, fds in self._queue]
        return {"fd": self.fileno(), "subscribed": self.subscribed, "keeps": self.keeps, "queue": queue}

    def restore(self, dumped: dict[str, Any]) -> None:
        """The other half of `dump`."""
        self.subscribed, self.keeps = dumped["subscribed"], dumped["keeps"]
        for data, fds in dumped["queue"]:
            for fd in fds:
                os.set_inheritable(fd, False)
            self._queue.append((data.encode("latin-1"), fds))
            self._queued += len(data) + 256
        self._watch()

    def close(self) -> None:
        if self.alive:
            self.alive = False
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            for _data, fds in self._queue:
                _close_all(fds)
            self._queue.clear()
            self._closed(self)

    def _watch(self) -> None:
        # who does not read his answers is not asked for more questions
        self._writing = bool(self._queue)
        if self._held and not self._queue:
            self._loop.forget(self._sock.fileno())
        else:
            self._loop.watch(self._sock.fileno(), WRITE if self._queue else READ, self._ready)

    def _ready(self, _events: int) -> None:
        if self._queue:
            self._flush()
            return
        for _round in range(_ROUNDS):
            if not self.alive or self._held or self._queue or not self._receive():
                return

    def _receive(self) -> bool:
        """One message; False when there is none (now, or ever again)."""
        try:
            message, fds = wire.receive(self._sock)
        except BlockingIOError:
            return False
        except (wire.Closed, ConnectionError):
            self.close()
            return False
        except WharfError as error:
            self.refuse(None, error)
            return True
        self._asked(self, message, fds)
        return True

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                wire.send(self._sock, data, fds)
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._queue.popleft()
            self._queued -= len(data) + 256
            _close_all(fds)
        if self._writing != bool(self._queue):
            self._watch()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
