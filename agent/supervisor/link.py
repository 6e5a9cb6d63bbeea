"""One asyncio connection to the supervisor: numbered questions and their answers, events, descriptors."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agent.protocol.errors import RemoteError, Unavailable, WharfError
from agent.supervisor import wire
from agent.supervisor.main import SOCKET
from agent.supervisor.start import SupervisorAway


class LinkLost(Unavailable):
    """The supervisor went away before it answered: whether it acted is not known. Look at the state, then decide."""

    code = "supervisor_lost"


Answer = tuple[dict[str, Any], list[int]]


class Link:
    """`told` gets every unasked message with its descriptors, which it owns; `lost` is called once, at the end."""

    def __init__(self, sock: socket.socket, told: Callable[[dict[str, Any], list[int]], None], lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._told = told
        self._lost = lost
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._next = 0
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self.alive = True
        self._loop.add_reader(sock.fileno(), self._read)

    @classmethod
    async def open(cls, rundir: str, told: Callable[[dict[str, Any], list[int]], None], lost: Callable[[], None]) -> Link:
        """Raises SupervisorAway."""
        sock = socket.socket(socket.AF_UNIX, wire.SOCKET_TYPE)
        try:
            await asyncio.get_running_loop().sock_connect(sock, os.path.join(rundir, SOCKET))
        except OSError as error:
            sock.close()
            raise SupervisorAway(f"no supervisor answers in {rundir}: {error.strerror}") from None
        return cls(sock, told, lost)

    async def ask(self, message: dict[str, Any], fds: Sequence[int] = ()) -> Answer:
        """The answer and its descriptors, which the caller owns. Raises LinkLost, or the supervisor's refusal as RemoteError."""
        if not self.alive:
            raise LinkLost("the supervisor is away")
        self._next += 1
        number = self._next
        packet = wire.pack({"n": number, **message}, fds)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._asked[number] = future
        self._queue.append(packet)
        if len(self._queue) == 1:
            self._write()
        try:
            answer, received = await future
        finally:
            self._asked.pop(number, None)
        if "error" in answer:
            raise RemoteError(answer["error"])
        return answer["ok"], received

    def close(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _data, fds in self._queue:
            _close(fds)
        for future in self._asked.values():
            if not future.done():
                future.set_exception(LinkLost("the supervisor went away before it answered: look at the state, then decide"))
        self._lost()

    def _read(self) -> None:
        while self.alive:
            try:
                message, fds = wire.receive(self._sock)
            except BlockingIOError:
                return
            except (wire.Closed, OSError, WharfError):
                self.close()
                return
            self._take(message, fds)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        number = message.get("n")
        if number is None:
            if "error" in message:  # refused as a whole
                self.close()
            else:
                self._told(message, fds)
            return
        future = self._asked.get(number)
        if future is None or future.done():
            _close(fds)  # who asked does not wait any more
        else:
            future.set_result((message, fds))

    def _write(self) -> None:
        while self._queue and self.alive:
            data, fds = self._queue[0]
            try:
                wire.send(self._sock, data, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:
                self.close()
                return
            self._queue.popleft()
            _close(fds)
        if self.alive:
            self._loop.remove_writer(self._sock.fileno())


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
