"""A load generator that costs little itself: one epoll loop, requests made beforehand, answers read no further than needed.

On a machine of two cores the client's own work is part of every figure. http.client with a thread a connection spends about
100 us of one core on a request, more than the servers that are measured; this one spends about 15.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit


@dataclass(slots=True)
class Reply:
    """`head` goes from the status line to the empty line; `size` is the body's."""

    status: int
    head: bytes
    size: int

    def header(self, name: bytes) -> bytes:
        """The value of a header that must be there; `name` in lower case."""
        start = self.head.lower().index(b"\r\n" + name + b": ") + len(name) + 4
        return self.head[start : self.head.index(b"\r\n", start)]

    @property
    def path(self) -> str:
        """Where Location points, on the server that was asked."""
        location = self.header(b"location").decode()
        return location[location.index("/v2/") :]


# Yields a request, is sent its reply.
Work: TypeAlias = Generator[bytes, Reply, None]


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A whole request; with a length only where there can be a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    if method not in {"GET", "HEAD"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class _Lane:
    """One connection and what it has to do."""

    link: socket.socket
    works: Iterator[Work]
    work: Work | None = None
    sending: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    headless: bool = False  # the request was a HEAD: its reply has no body
    began: float = 0.0

    def begin(self) -> bool:
        """Take the next work; False when none is left."""
        self.work = next(self.works, None)
        if self.work is None:
            return False
        self.ask(next(self.work))
        return True

    def ask(self, raw: bytes) -> None:
        self.headless = raw.startswith(b"HEAD")
        self.received.clear()
        self.began = time.perf_counter()
        self.sending = memoryview(raw)
        self.send()

    def send(self) -> None:
        try:
            while self.sending:
                self.sending = self.sending[self.link.send(self.sending) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return

    def reply(self) -> Reply | None:
        """What has arrived, when it is whole."""
        try:
            while piece := self.link.recv(1 << 17):
                self.received += piece
                if len(piece) < 1 << 14:
                    break
            else:
                raise ConnectionError("the server closed a connection")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[: end + 2])
        status = int(head[9:12])
        if self.headless or status == 204:
            return Reply(status, head, 0)
        reply = Reply(status, head, 0)
        reply.size = int(reply.header(b"content-length"))
        return reply if len(self.received) >= end + 4 + reply.size else None


def drive(url: str, lanes: list[Iterator[Work]], trust: ssl.SSLContext | None = None) -> tuple[float, list[float]]:
    """(seconds until all works are done, milliseconds of each request). Each lane is a connection with its works in turn."""
    parts = urlsplit(url)
    took: list[float] = []
    open_lanes: list[_Lane] = []
    with selectors.EpollSelector() as selector:
        for works in lanes:
            link = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "https":
                link = (trust or ssl.create_default_context()).wrap_socket(link, server_hostname=parts.hostname)
            link.setblocking(False)
            open_lanes.append(_Lane(link, works))
        start = time.perf_counter()
        for lane in open_lanes:
            if lane.begin():
                selector.register(lane.link, selectors.EVENT_READ, lane)
        while selector.get_map():
            ready = selector.select(60)
            assert ready, "no server answered for a minute"
            for key, _ in ready:
                _step(selector, key.data, took)
        seconds = time.perf_counter() - start
    for lane in open_lanes:
        lane.link.close()
    return seconds, took


def _step(selector: selectors.BaseSelector, lane: _Lane, took: list[float]) -> None:
    if lane.sending:  # small requests fit into the socket's buffer: this is the rest of a rare one
        lane.send()
    reply = lane.reply()
    if reply is None:
        return
    took.append(1000 * (time.perf_counter() - lane.began))
    assert lane.work is not None
    try:
        lane.ask(lane.work.send(reply))
    except StopIteration:
        if not lane.begin():
            selector.unregister(lane.link)
