"""`wharf.again`: the same bytes are answered again by the application's answerer, everything else the ordinary way."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.controlplane.listening import connect, listening, read_response

LINES = "host: x\r\nauthorization: Bearer abc\r\n\r\n"


class App:
    """Answers with the path and how often it was called; leaves an answerer that knows what `known` holds."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.known: dict[bytes, bytes] = {}
        self.hold = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["path"])
        again = scope["extensions"].get("wharf.again")
        if again is not None:
            again.leave(self.again)
        body = f"ordinary {scope['path']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    def again(self, line: bytes) -> tuple[bytes, ...] | None:
        body = self.known.get(line)
        return None if body is None else (b"content-length: %d\r\n\r\n" % len(body), body)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def link(app: App) -> Iterator[socket.socket]:
    with listening(app) as (_, port), connect(port) as sock:
        yield sock


def ask(sock: socket.socket, path: str, lines: str = LINES, method: str = "GET") -> bytes:
    sock.sendall(f"{method} {path} HTTP/1.1\r\n{lines}".encode())
    head, body = read_response(sock)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ndate: " in head
    return body


def test_the_second_time(app: App, link: socket.socket) -> None:
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    assert ask(link, "/a") == b"ordinary /a", "nothing is known of these header lines yet"
    assert [ask(link, path) for path in ("/a", "/b", "/a")] == [b"from memory", b"ordinary /b", b"from memory"]
    del app.known[b"GET /a HTTP/1.1"]
    assert ask(link, "/a") == b"ordinary /a"
    assert app.calls == ["/a", "/b", "/a"]


def test_other_header_lines_are_somebody_else(app: App, link: socket.socket) -> None:
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    ask(link, "/a")
    for lines in (LINES.replace("abc", "abd"), LINES.replace("\r\n\r\n", "\r\nrange: bytes=0-1\r\n\r\n")):
        assert ask(link, "/a", lines) == b"ordinary /a"
        assert ask(link, "/a", lines) == b"from memory", "the application let the new lines in"


@pytest.mark.parametrize("cut", [1, 10, 20, -1])
def test_a_request_in_pieces_goes_the_ordinary_way(app: App, link: socket.socket, cut: int) -> None:
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    ask(link, "/a")
    raw = f"GET /a HTTP/1.1\r\n{LINES}".encode()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(raw[:cut])
    # The first piece has arrived when a request on another connection was answered after it.
    with connect(link.getpeername()[1]) as other:
        ask(other, "/other")
    link.sendall(raw[cut:])
    assert read_response(link)[1] == b"ordinary /a"
    assert ask(link, "/a") == b"from memory"


def test_requests_behind_each_other_are_answered_in_order(app: App, link: socket.socket) -> None:
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    ask(link, "/a")
    raw = f"GET /a HTTP/1.1\r\n{LINES}".encode()
    link.sendall(raw + raw.replace(b"/a", b"/b") + raw)
    answers = b""
    while answers.count(b"ordinary") < 3 or not answers.endswith(b"/a"):
        answers += link.recv(65536)
    assert re.findall(rb"ordinary /[ab]", answers) == [b"ordinary /a", b"ordinary /b", b"ordinary /a"]


def test_a_body_is_never_taken_for_a_request(app: App, link: socket.socket) -> None:
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    ask(link, "/a")
    inner = f"GET /a HTTP/1.1\r\n{LINES}".encode()
    link.sendall(f"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: {len(inner)}\r\n\r\n".encode())
    with connect(link.getpeername()[1]) as other:
        ask(other, "/other")
    link.sendall(inner)
    assert read_response(link)[1] == b"ordinary /upload"
    assert ask(link, "/a") == b"from memory"


def test_answers_again_keep_a_connection_from_being_idle(app: App, link: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    from controlplane.server.protocol import WharfProtocol

    seen: list[WharfProtocol] = []
    real = WharfProtocol._answer_again

    def watch(self: WharfProtocol, *arguments: Any) -> bool:
        seen.append(self)
        return real(self, *arguments)

    monkeypatch.setattr(WharfProtocol, "_answer_again", watch)
    app.known[b"GET /a HTTP/1.1"] = b"from memory"
    ask(link, "/a")
    ask(link, "/a")
    protocol = seen[-1]
    protocol.loop.call_soon_threadsafe(protocol.timeout_keep_alive_handler)  # uvicorn's clock, which saw only the first
    assert ask(link, "/a") == b"from memory", "still open"
