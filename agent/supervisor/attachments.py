"""Live copies of a container's streams for clients, and what clients type.

A slow client never blocks the loop. Its backlog is bounded: at LIMIT the container's own output is left in the kernel until the
client reads on (as a slow terminal would do to it), and after STALL seconds without any progress the client is cut off and the
container goes on.
"""

from __future__ import annotations

import os
import time

from agent.supervisor.loop import READ, WRITE, Loop, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LIMIT = 1 << 20  # bytes of backlog
STALL = 30.0  # s
_PIECE = 64 << 10


class Outlet:
    """The write end of one pipe to one client."""

    def __init__(self, loop: Loop, fd: int, eased: Callable[[], None], gone: Callable[[], None]) -> None:
        self._loop = loop
        self.fd = fd  # -1 once closed
        self.backlog = bytearray()
        self._eased = eased  # called when a full backlog has room again
        self._gone = gone  # called when the client is lost or cut off
        self._ending = False
        self._stall: Timer | None = None
        self._progress = 0.0
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        self._wait(False)

    @property
    def full(self) -> bool:
        return len(self.backlog) >= LIMIT

    def feed(self, data: bytes) -> None:
        """Take data for the client. Never blocks; it may end the outlet (`gone` is called then)."""
        if self.fd < 0:
            return
        self.backlog += data
        if self._stall is None:
            self._drain()

    def end(self) -> None:
        """No more data: close once the client has read what is there."""
        self._ending = True
        if not self.backlog:
            self.close()

    def close(self) -> None:
        if self.fd >= 0:
            self._calm()
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1
            self.backlog.clear()

    def _drain(self) -> None:
        was_full = self.full
        try:
            while self.backlog:
                del self.backlog[: os.write(self.fd, memoryview(self.backlog)[:_PIECE].tobytes())]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the client closed its end
            self._lost()
            return
        self._wait(bool(self.backlog))
        if self._ending and not self.backlog:
            self.close()
        if was_full and not self.full:
            self._eased()

    def _wait(self, on: bool) -> None:
        self._progress = time.monotonic()
        if on:
            self._loop.watch(self.fd, WRITE, lambda _events: self._drain())
            if self._stall is None:
                self._stall = self._loop.later(STALL, self._check)
        else:
            self._loop.watch(self.fd, 0, lambda _events: self._lost())  # EPOLLERR: the client closed its end
            self._calm()

    def _check(self) -> None:
        self._stall = None
        left = self._progress + STALL - time.monotonic()
        if left <= 0:
            self._lost()
        else:
            self._stall = self._loop.later(left, self._check)

    def _calm(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _lost(self) -> None:
        self.close()
        self._gone()


class Inlet:
    """The container's standard input: what several clients type, in order of arrival, and its end."""

    def __init__(self, loop: Loop, fd: int, once: bool) -> None:
        self._loop = loop
        self.fd = fd  # pipe or console, -1 once closed
        self.once = once  # the first client's end of input is the container's
        self._waiting: list[tuple[int, bytes]] = []  # paused clients and what they wrote
        self._clients: dict[int, bool] = {}
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)

    @property
    def clients(self) -> list[int]:
        """Descriptors of the clients' pipes."""
        return list(self._clients)

    def join(self, fd: int) -> None:
        """Take the read end of a client's pipe."""
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        self._clients[fd] = True
        self._loop.watch(fd, READ, lambda _events: self._read(fd))

    def close(self) -> None:
        for fd in list(self._clients):
            self._leave(fd)
        self._end()

    def hand_on(self) -> list[int]:
        """Close the container's side only; the clients' pipes, for another inlet."""
        clients, self._clients = list(self._clients), {}
        for fd in clients:
            self._loop.forget(fd)
        self._end()
        return clients

    def dump(self) -> dict[str, Any]:
        """For the handover: descriptors, and what was typed but not yet taken (latin-1 text)."""
        waiting = [[client, data.decode("latin-1")] for client, data in self._waiting]
        return {"fd": self.fd, "once": self.once, "clients": list(self._clients), "waiting": waiting}

    def resume(self, dumped: dict[str, Any]) -> None:
        """Take over the clients from before an upgrade (see dump)."""
        for fd in dumped["clients"]:
            self.join(fd)
        for client, data in dumped["waiting"]:
            self._write(client, data.encode("latin-1"))

    def _read(self, fd: int) -> None:
        data = os.read(fd, 4096)  # PIPE_BUF: a pipe takes it whole or not at all
        if data:
            self._write(fd, data)
            return
        self._leave(fd)
        if self.once:
            self._end()

    def _write(self, client: int, data: bytes) -> None:
        if self.fd < 0:
            return
        try:
            data = data[os.write(self.fd, data) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE, EIO: the container closed its input
            self._end()
            return
        if data:  # the container reads slowly: so does this client's pipe
            self._loop.forget(client)
            self._waiting.append((client, data))
            self._loop.watch(self.fd, WRITE, lambda _events: self._retry())

    def _retry(self) -> None:
        self._loop.forget(self.fd)
        waiting, self._waiting = self._waiting, []
        for client, data in waiting:
            if client in self._clients:
                self._loop.watch(client, READ, lambda _events, fd=client: self._read(fd))  # type: ignore[misc]  # bound now
            self._write(client, data)

    def _leave(self, fd: int) -> None:
        if self._clients.pop(fd, None):
            self._loop.forget(fd)
            os.close(fd)

    def _end(self) -> None:
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1


class Attachment:
    """One client's view of a container: an outlet per stream."""

    __slots__ = ("outlets",)

    def __init__(self, outlets: dict[str, Outlet]) -> None:
        self.outlets = outlets

    @property
    def full(self) -> bool:
        return any(outlet.full for outlet in self.outlets.values())

    def feed(self, stream: str, data: bytes) -> None:
        self.outlets[stream].feed(data)

    def end(self) -> None:
        for outlet in self.outlets.values():
            outlet.end()

    def close(self) -> None:
        for outlet in self.outlets.values():
            outlet.close()

    def dump(self) -> dict[str, Any]:
        """For the handover: descriptors and backlogs (latin-1 text)."""
        return {name: [outlet.fd, outlet.backlog.decode("latin-1")] for name, outlet in self.outlets.items() if outlet.fd >= 0}
