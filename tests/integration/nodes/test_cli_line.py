"""The command line's socket over real TLS: what one thread sends must not disturb what another reads."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from nodes.cli.streaming import Line
from tests.integration.agent.cutting_registry import certificate

FRAMES, SIZE = 300, 20_000


async def echo(socket: ServerConnection) -> None:
    async for frame in socket:
        if frame == "leave":
            return
        await socket.send(frame)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """An echo server's address, and the context that trusts it."""
    pem, authority = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    ready, ports, stop, loop = threading.Event(), [], asyncio.Event(), asyncio.new_event_loop()

    async def run() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=context, compression=None) as server:
            ports.append(next(iter(server.sockets)).getsockname()[1])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(20)
    yield f"wss://127.0.0.1:{ports[0]}", ssl.create_default_context(cadata=authority)
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def line(address: tuple[str, ssl.SSLContext]) -> Iterator[Line]:
    opened = Line()
    opened.open(address[0], ssl=address[1], compression=None)
    yield opened
    opened.end()


def test_both_directions_at_once(line: Line) -> None:
    frames = [number.to_bytes(2, "big") * (SIZE // 2) for number in range(FRAMES)]
    sender = threading.Thread(target=lambda: [line.send(frame) for frame in frames])
    sender.start()
    assert [line.recv(30) for _ in frames] == frames
    sender.join()


def test_an_end_that_the_server_made_is_told_to_reader_and_sender(line: Line) -> None:
    line.send("leave")
    with pytest.raises(ConnectionClosed):
        line.recv(30)
    with pytest.raises(ConnectionClosed):
        line.send("more")


def test_what_is_sent_after_our_own_end_is_dropped(address: tuple[str, ssl.SSLContext]) -> None:
    """The keyboard's thread may still have a key in its hand."""
    opened = Line()
    opened.open(address[0], ssl=address[1])
    opened.end()
    opened.send("late")


def test_a_server_that_is_not_there_ends_the_thread(address: tuple[str, ssl.SSLContext]) -> None:
    before = threading.active_count()
    opened = Line()
    with pytest.raises(ConnectionRefusedError):
        opened.open("wss://127.0.0.1:1", ssl=address[1])
    opened.end()
    assert threading.active_count() == before
