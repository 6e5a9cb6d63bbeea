"""Health, throttled accept, websockets on it, graceful shutdown."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import websockets

from controlplane.server.app import Edge, respond
from controlplane.server.tls import server_context
from tests.integration.controlplane.listening import Authority, connect, listening, read_response


async def django(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, 200, b"django " + scope["path"].encode())


def get(port: int, path: str) -> bytes:
    with connect(port) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return read_response(sock)[1]


def test_health_is_answered_at_the_edge() -> None:
    with listening(Edge(django)) as (_, port):
        assert get(port, "/healthz") == b"ok\n"
        assert get(port, "/other") == b"django /other"


def test_a_throttled_listener_takes_everyone_in_the_end() -> None:
    with listening(Edge(django), rate=200.0) as (_, port):
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(get(port, "/x"))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [b"django /x"] * 40


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def test_links_get_no_deflate_and_are_closed_with_1012_at_the_end() -> None:
    async def talk(port: int) -> websockets.ClientConnection:
        link = await websockets.connect(f"ws://127.0.0.1:{port}/")
        await link.send("hello")
        assert await link.recv() == "hello"
        return link

    async def main() -> int | None:
        with listening(Edge(echo), rate=100.0) as (listener, port):
            link = await talk(port)
            listener.servers[0].loop.call_soon_threadsafe(listener.leave)  # type: ignore[attr-defined]  # ThrottledServer
            await link.wait_closed()
            return link.close_code

    assert asyncio.run(main()) == 1012


def test_a_request_in_flight_ends_before_the_listener_does() -> None:
    entered = threading.Event()
    release = threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.to_thread(release.wait, 20)
        await respond(send, 200, b"done")

    with listening(slow) as (listener, port), connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert entered.wait(20)
        listener.leave()
        release.set()
        head, body = read_response(sock)
        assert body == b"done"
        assert b"connection: close" in head or isinstance(sock, socket.socket)


def test_an_idle_tls_client_does_not_hold_the_listener_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key, _ = Authority(tmp_path, "server").issue("localhost")
    trusting = ssl._create_unverified_context()
    with listening(Edge(django), server_context(certificate, key)) as (_, port):
        sock = connect(port, trusting)
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        read_response(sock)
    # the listener is gone; the client, which never read again, never answered the end of TLS
    sock.close()
    assert "timeout graceful shutdown exceeded" not in caplog.text
