"""Files by sendfile and over TLS: the bytes, keep-alive after them, clients that go away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.server import files
from controlplane.server.app import Edge
from controlplane.server.tls import server_context
from tests.integration.controlplane.listening import Authority, connect, listening, read_response

SIZE = (12 << 20) + 4321


class FileApp:
    """GET /path, /range?<offset>-<count>, /chunked; remembers how many responses ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/path":
            await self.start(send, SIZE)
            await send({"type": "http.response.pathsend", "path": str(self.path)})
        else:
            offset, count = 0, SIZE
            if scope["query_string"]:
                offset, count = map(int, scope["query_string"].split(b"-"))
            with self.path.open("rb") as file:
                await self.start(send, None if scope["path"] == "/chunked" else count)
                await send(
                    {"type": "http.response.zerocopysend", "file": file, "offset": offset, "count": count, "more_body": True}
                )
            await send({"type": "http.response.body", "body": b""})
        self.ended += 1

    async def start(self, send: Any, length: int | None) -> None:
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


@pytest.fixture
def content(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "blob"
    data = os.urandom(SIZE)
    path.write_bytes(data)
    return path, data


@pytest.fixture(params=["plain", "tls"])
def served(
    request: pytest.FixtureRequest, content: tuple[Path, bytes], tmp_path: Path
) -> Iterator[tuple[FileApp, int, ssl.SSLContext | None]]:
    app = FileApp(content[0])
    server = client = None
    if request.param == "tls":
        authority = Authority(tmp_path, "ours")
        certificate, key, _ = authority.issue("server")
        server = server_context(certificate, key)
        client = ssl.create_default_context(cadata=authority.pem)
    with listening(Edge(app), server) as (_, port):
        yield app, port, client


def ask(sock: socket.socket, target: str, method: str = "GET") -> None:
    sock.sendall(f"{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_bytes_are_equal_and_the_connection_goes_on(served: Any, content: Any) -> None:
    _, port, context = served
    with connect(port, context) as sock:
        for _ in range(3):
            ask(sock, "/path")
            assert digest(read_response(sock)[1]) == digest(content[1])
            ask(sock, "/range?1048575-70001")
            assert read_response(sock)[1] == content[1][1048575 : 1048575 + 70001]


def test_pipelined_requests_are_answered_in_order(served: Any, content: Any) -> None:
    _, port, context = served
    with connect(port, context) as sock:
        for start in (0, 100, 200):
            ask(sock, f"/range?{start}-100")
        data = b""
        while data.count(b"200 OK") < 3 or not data.endswith(content[1][200:300]):
            piece = sock.recv(65536)
            assert piece
            data += piece
        assert data.index(content[1][0:100]) < data.index(content[1][100:200]) < data.index(content[1][200:300])


def test_head_sends_no_body(served: Any) -> None:
    _, port, context = served
    with connect(port, context) as sock:
        ask(sock, "/path", "HEAD")
        assert f"content-length: {SIZE}".encode() in sock.recv(65536)
        ask(sock, "/range?0-5")
        assert len(read_response(sock)[1]) == 5


def test_without_a_length_it_is_chunked(served: Any, content: Any) -> None:
    _, port, context = served
    with connect(port, context) as sock:
        ask(sock, "/chunked?0-70000")
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)
        assert b"transfer-encoding: chunked" in data
        assert content[1][:70000] in data


def test_a_slow_reader_gets_every_byte(served: Any, content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, port, context = served
    full = threading.Event()
    wait_writable, read = files._writable, files.read

    async def watched_wait(out: int, lost: asyncio.Event) -> None:
        full.set()
        await wait_writable(out, lost)

    async def watched_read(file: int, offset: int, count: int) -> bytes:
        full.set()
        return await read(file, offset, count)

    monkeypatch.setattr(files, "_writable", watched_wait)
    monkeypatch.setattr(files, "read", watched_read)
    with connect(port, context) as sock:
        ask(sock, "/path")
        assert full.wait(20), "12 MB went into the socket's buffer"
        assert digest(read_response(sock)[1]) == digest(content[1])


def test_an_aborting_client_costs_only_itself(served: Any, content: Any) -> None:
    _, port, context = served
    for _ in range(5):
        sock = connect(port, context)
        ask(sock, "/path")
        sock.recv(1000)
        # linger 0: close sends RST, as a killed client's kernel does with unread data
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    with connect(port, context) as sock:
        ask(sock, "/path")
        assert digest(read_response(sock)[1]) == digest(content[1])


def test_a_file_that_shrinks_ends_the_connection(served: Any, content: Any) -> None:
    _, port, context = served
    with connect(port, context) as sock:
        ask(sock, f"/range?{SIZE - 10}-1000")
        head, body = read_response(sock)
        assert b"200" in head
        assert len(body) <= 10
