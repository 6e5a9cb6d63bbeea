"""The resolver of containers on user networks: 127.0.0.11 inside their netns, served from the agent.

Its sockets are opened inside the netns on free ports, and a rule in there leads port 53 of 127.0.0.11 to them: a container
may thus run a name server of its own on port 53. Names of the container's networks are answered here, all others are
forwarded to the node's resolvers. One thread serves all containers over UDP; a TCP connection gets a short-lived one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence

from agent.network import dnswire, netnsdns
from agent.network.dnswire import Question
from agent.network.names import Book

PATIENCE = 2.0  # seconds for one upstream server, as a resolver library has it
# Nobody may eat the agent's descriptors: forwarded queries of one container and of all, TCP connections of one container
MAX_WAITING, MAX_WAITING_IN_ALL, MAX_CONNECTIONS = 128, 2048, 16

log = logging.getLogger(__name__)


class _Waiting:
    """A query sent on to a server of the node."""

    __slots__ = ("client", "data", "deadline", "owner", "question", "server", "sock", "tried")

    def __init__(self, owner: _Desk, client: tuple[str, int], data: bytes, question: Question) -> None:
        self.owner = owner
        self.client = client
        self.data = data
        self.question = question
        self.tried = 0
        self.server = 0
        self.deadline = 0.0
        self.sock: socket.socket | None = None


class _Desk:
    """The two sockets of one container."""

    __slots__ = ("connections", "container_id", "tcp", "udp", "waiting")

    def __init__(self, container_id: str, udp: socket.socket, tcp: socket.socket) -> None:
        self.container_id = container_id
        self.udp = udp
        self.tcp = tcp
        self.waiting: set[_Waiting] = set()
        self.connections = 0

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class DnsServer:
    """book: the names as they are now. upstream: addresses of the node's resolvers for a container, () = it may ask nobody."""

    def __init__(self, book: Callable[[], Book], upstream: Callable[[str], Sequence[str]], port: int = 53) -> None:
        self._book = book
        self._upstream = upstream
        self._port = port
        self._desks: dict[str, _Desk] = {}
        self._changes: list[Callable[[], None]] = []  # for the thread, which alone touches the selector
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)[::-1]
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._waiting: set[_Waiting] = set()
        self._stopped = False  # nothing is opened any more
        self._ended = False  # the thread is to return
        self._thread: threading.Thread | None = None

    # -- from any thread

    def open(self, container_id: str, netns_path: str) -> None:
        """Serve a container; done again, or after `stop`, it does nothing."""
        with self._lock:
            if self._stopped or container_id in self._desks:
                return
            udp, tcp = netnsdns.open_sockets(netns_path)
            desk = self._desks[container_id] = _Desk(container_id, udp, tcp)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dns", daemon=True)
                self._thread.start()
        self._tell(lambda: self._register(desk))

    def close(self, container_id: str) -> None:
        with self._lock:
            desk = self._desks.pop(container_id, None)
        if desk is not None:
            self._tell(lambda: self._unregister(desk))

    def stop(self) -> None:
        """For good; done again it does nothing."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            desks = list(self._desks)
        for container_id in desks:
            self.close(container_id)
        self._tell(self._end)
        if self._thread is not None:
            self._thread.join()
        self._selector.close()
        os.close(self._wake)
        os.close(self._woken)

    def _tell(self, change: Callable[[], None]) -> None:
        with self._lock:
            self._changes.append(change)
        with contextlib.suppress(BlockingIOError):  # full: it is awake anyway
            os.write(self._wake, b"\0")

    # -- the thread

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._pause()):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                else:
                    self._guarded(key.data)
            with self._lock:
                changes, self._changes = self._changes, []
            for change in changes:
                self._guarded(change)
            if self._ended:
                return
            self._expire()

    def _end(self) -> None:
        """The last change: those told before it, as the closing of sockets, are done by now."""
        self._ended = True

    def _guarded(self, work: Callable[[], None]) -> None:
        """One question or change that we cannot digest must not silence the resolver of every container."""
        try:
            work()
        except Exception:
            log.exception("the resolver stumbled")

    def _pause(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, min(waiting.deadline for waiting in self._waiting) - time.monotonic())

    def _register(self, desk: _Desk) -> None:
        self._selector.register(desk.udp, selectors.EVENT_READ, lambda: self._ask_udp(desk))
        self._selector.register(desk.tcp, selectors.EVENT_READ, lambda: self._accept(desk))

    def _unregister(self, desk: _Desk) -> None:
        self._selector.unregister(desk.udp)
        self._selector.unregister(desk.tcp)
        for waiting in list(desk.waiting):
            self._finish(waiting, None)
        desk.close()

    def _ask_udp(self, desk: _Desk) -> None:
        try:
            data, client = desk.udp.recvfrom(4096)
        except OSError:
            return
        question = dnswire.parse(data)
        if question is None:
            return
        answer = self._answer(desk.container_id, data, question)
        if answer is not None:
            _send(desk.udp, answer, client)
        elif len(desk.waiting) < MAX_WAITING and len(self._waiting) < MAX_WAITING_IN_ALL:
            waiting = _Waiting(desk, client, data, question)
            desk.waiting.add(waiting)
            self._waiting.add(waiting)
            self._forward(waiting)

    def _answer(self, container_id: str, data: bytes, question: Question) -> bytes | None:
        """From the book; a refusal for those who may ask nobody else; None = forward."""
        book = self._book()
        found = book.addresses(container_id, question.name)
        if found is not None:
            return dnswire.addresses(data, question, found)
        address = dnswire.reverse_of(question.name) if question.type == dnswire.TYPE_PTR else None
        name = book.name_of(container_id, address) if address else None
        if name is not None:
            return dnswire.pointer(data, question, name)
        return None if self._upstream(container_id) else dnswire.failure(data, question)

    def _forward(self, waiting: _Waiting) -> None:
        """Ask the next server from a socket of its own: a random port and a random id, so that answers cannot be guessed."""
        servers = self._upstream(waiting.owner.container_id)
        self._hang_up(waiting)
        while waiting.tried < len(servers):
            server = servers[waiting.tried]
            waiting.tried += 1
            waiting.server = random.SystemRandom().randrange(1 << 16)
            try:
                sock = _sent(server, self._port, waiting.server.to_bytes(2, "big") + waiting.data[2:])
            except OSError:
                continue
            waiting.sock = sock
            waiting.deadline = time.monotonic() + PATIENCE
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._answered(waiting))
            return
        self._finish(waiting, dnswire.failure(waiting.data, waiting.question))

    def _answered(self, waiting: _Waiting) -> None:
        if waiting.sock is None:
            return
        try:
            data = waiting.sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # the server's port is closed
            self._forward(waiting)
            return
        if data[:2] == waiting.server.to_bytes(2, "big"):
            self._finish(waiting, waiting.data[:2] + data[2:])

    def _expire(self) -> None:
        now = time.monotonic()
        for waiting in [waiting for waiting in self._waiting if waiting.deadline <= now]:
            self._forward(waiting)

    def _finish(self, waiting: _Waiting, answer: bytes | None) -> None:
        self._hang_up(waiting)
        self._waiting.discard(waiting)
        waiting.owner.waiting.discard(waiting)
        if answer is not None:
            _send(waiting.owner.udp, answer, waiting.client)

    def _hang_up(self, waiting: _Waiting) -> None:
        if waiting.sock is not None:
            self._selector.unregister(waiting.sock)
            waiting.sock.close()
            waiting.sock = None

    # -- TCP

    def _accept(self, desk: _Desk) -> None:
        try:
            connection, _ = desk.tcp.accept()
        except OSError:
            return
        if desk.connections >= MAX_CONNECTIONS:
            connection.close()
            return
        desk.connections += 1
        threading.Thread(target=self._converse, args=(desk, connection), name="dns-tcp", daemon=True).start()

    def _converse(self, desk: _Desk, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                while (data := _read_framed(connection)) is not None:
                    question = dnswire.parse(data)
                    if question is None:
                        return
                    answer = self._answer(desk.container_id, data, question) or self._ask_tcp(desk, data, question)
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)
        finally:
            desk.connections -= 1

    def _ask_tcp(self, desk: _Desk, data: bytes, question: Question) -> bytes:
        for server in self._upstream(desk.container_id):
            with contextlib.suppress(OSError), socket.create_connection((server, self._port), PATIENCE) as upstream:
                upstream.sendall(len(data).to_bytes(2, "big") + data)
                answer = _read_framed(upstream)
                if answer is not None and answer[:2] == data[:2]:
                    return answer
        return dnswire.failure(data, question)


def _sent(server: str, port: int, data: bytes) -> socket.socket:
    """A fresh non-blocking socket on which `data` has been sent to a server."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect((server, port))
        sock.send(data)
    except OSError:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, data: bytes, client: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # the container is gone, or its queue is full: it asks again
        sock.sendto(data, client)


def _read_framed(sock: socket.socket) -> bytes | None:
    """A message after its 2-byte length; None at the end of the stream."""
    size = _read_exactly(sock, 2)
    return None if size is None else _read_exactly(sock, int.from_bytes(size, "big"))


def _read_exactly(sock: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            return None
        data += more
    return data
