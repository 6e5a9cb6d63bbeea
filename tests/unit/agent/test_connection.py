"""The agent's end of the link against servers that misbehave: local, with real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from agent.link import connection
from agent.link.connection import Connection
from agent.link.identity import Cluster, Identity
from agent.protocol import messages as m
from agent.protocol.errors import Internal
from agent.protocol.wire import Event, Received, Wire

Answer = Callable[[ServerConnection], Awaitable[None]]


def certificate(directory: Path) -> tuple[bytes, bytes]:
    """(key, self-signed certificate for localhost): root, server and client in one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off in milliseconds: what is tested is that it happens, not how long it takes."""
    monkeypatch.setattr(connection, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(connection, "MAX_DELAY", 0.01)
    monkeypatch.setattr(connection, "WELCOME_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.3)


class End:
    """A Connection and all that it said."""

    def __init__(self, identity: Identity) -> None:
        self.events: list[Event] = []
        self.wire = Wire(m.AGENT)
        self.connection = Connection(
            identity,
            self.wire,
            hello=lambda: m.Hello((m.VERSION,), "0", "boot", 0, 0, session=self.wire.session),
            handle=self.handle,
            beat=lambda: m.Heartbeat(1, 0, 0.0),
        )

    async def handle(self, event: Event) -> None:
        self.events.append(event)

    def messages(self, kind: type[Any]) -> list[Any]:
        return [event.message for event in self.events if isinstance(event, Received) and isinstance(event.message, kind)]


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    key, pem = certificate(tmp_path)
    identity = Identity(tmp_path)
    identity.save(Cluster("n1", ("localhost:1",), "localhost"), key, pem.decode(), pem.decode())
    return identity


def server_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.ca_path.with_name("node.pem"))
    return context


def point_to(identity: Identity, *ports: int) -> None:
    key, _, rest = identity.ca_path.with_name("node.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    pem = ("-----BEGIN CERTIFICATE-----" + rest.decode()).strip() + "\n"
    links = tuple(f"127.0.0.1:{port}" for port in ports)
    identity.save(Cluster("n1", links, "localhost"), key, pem, identity.ca_path.read_text())


@contextlib.asynccontextmanager
async def server(identity: Identity, *answers: Answer) -> AsyncIterator[list[int]]:
    """A websocket server that answers each connection in its own way, the last for ever; yields the count of connections."""
    count: list[int] = []

    async def handler(socket: ServerConnection) -> None:
        count.append(1)
        with contextlib.suppress(ConnectionClosed):
            await answers[min(len(count), len(answers)) - 1](socket)

    context = server_context(identity)
    async with serve(handler, "127.0.0.1", 0, ssl=context, compression=None, ping_interval=None, close_timeout=0.1) as running:
        point_to(identity, next(iter(running.sockets)).getsockname()[1])
        yield count


async def welcome(socket: ServerConnection) -> None:
    wire = Wire(m.CONTROL)
    wire.connect()
    (event,) = wire.receive(await socket.recv())
    assert isinstance(event, Received)
    wire.send(m.Welcome(1, "n1", "s1", 1, False, 0, heartbeat=0.05, grace=0.4, registry=":1"))
    for frame in wire.frames():
        await socket.send(frame)


async def serve_well(socket: ServerConnection) -> None:
    await welcome(socket)
    async for _ in socket:
        await socket.send('{"type": "ack"}')


async def refuse_for_good(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send('{"type": "refused", "code": "node_removed", "detail": "gone", "retry_after": -1.0}')


async def close_at_once(socket: ServerConnection) -> None:
    await socket.close(1011)


async def vanish(socket: ServerConnection) -> None:
    socket.transport.abort()


async def garbage(socket: ServerConnection) -> None:
    await socket.send("\x00\x01 this is no JSON")
    await socket.wait_closed()


async def wrong_message(socket: ServerConnection) -> None:
    await socket.send('{"type": "heartbeat", "epoch": 1, "assign_rev": 0, "sent": 1}')
    await socket.wait_closed()


async def never_welcome(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def fall_silent(socket: ServerConnection) -> None:
    await welcome(socket)
    await socket.wait_closed()


async def too_big(socket: ServerConnection) -> None:
    await socket.send("x" * (17 << 20))
    await socket.wait_closed()


@pytest.mark.parametrize("answer", [close_at_once, vanish, garbage, wrong_message, never_welcome, fall_silent, too_big])
async def test_whatever_a_server_does_the_agent_comes_back(identity: Identity, answer: Answer) -> None:
    async with server(identity, answer, answer, refuse_for_good) as count:
        await asyncio.wait_for(End(identity).connection.run(), 20)
    assert len(count) == 3


async def test_a_link_that_works_after_failures_is_used(identity: Identity) -> None:
    end = End(identity)
    async with server(identity, vanish, garbage, serve_well) as count:
        running = asyncio.create_task(end.connection.run())
        await asyncio.wait_for(end.connection.connected.wait(), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(count) == 3
    assert len(end.messages(m.Welcome)) == 1


async def test_an_error_of_ours_ends_the_link_and_not_the_agent(identity: Identity) -> None:
    """A welcome of a stale control-plane process, a disk that is full: the next attempt may be better."""
    end = End(identity)
    failures = iter([Internal("stale"), OSError(28, "No space left on device")])

    async def handle(event: Event) -> None:
        if isinstance(event, Received) and isinstance(event.message, m.Welcome):
            for failure in failures:
                raise failure

    end.connection._handle = handle
    async with server(identity, serve_well, serve_well, refuse_for_good) as count:
        await asyncio.wait_for(end.connection.run(), 20)
    assert len(count) == 3


async def test_streams_are_reset_when_the_link_goes(identity: Identity) -> None:
    async def open_a_stream(socket: ServerConnection) -> None:
        await welcome(socket)
        await socket.send('{"type": "stream_open", "stream": 1, "target": "logs", "container": "c"}')
        await socket.recv()  # a beat: the agent has read it
        socket.transport.abort()

    end = End(identity)
    async with server(identity, open_a_stream, refuse_for_good):
        await asyncio.wait_for(end.connection.run(), 20)
    assert [message.stream for message in end.messages(m.StreamReset)] == [1]


async def test_no_trust_for_a_server_of_another_root(identity: Identity, tmp_path: Path) -> None:
    other = Identity(tmp_path / "other")
    key, pem = certificate(tmp_path)
    other.save(Cluster("x", ("localhost:1",), "localhost"), key, pem.decode(), pem.decode())
    end = End(identity)
    async with server(other, serve_well) as count:
        point_to(identity, int(other.cluster().links[0].rpartition(":")[2]))
        running = asyncio.create_task(end.connection.run())
        async with asyncio.timeout(20):
            while not end.connection._told:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert count == []
    assert "certificate verify failed" in end.connection._told


async def test_refusals_say_when_to_come_back(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    async def later(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"type": "refused", "code": "throttled", "detail": "too often", "retry_after": 4.0}')
        await socket.wait_closed()

    monkeypatch.setattr(connection.asyncio, "sleep", sleep)
    async with server(identity, later, refuse_for_good):
        await asyncio.wait_for(End(identity).connection.run(), 20)
    assert any(4.0 <= seconds < 4.1 for seconds in slept)


async def test_an_agent_that_ends_does_not_wait_for_a_silent_server(identity: Identity) -> None:
    over = asyncio.Event()

    async def deaf(socket: ServerConnection) -> None:
        await welcome(socket)
        socket.transport.pause_reading()
        await over.wait()
        socket.transport.abort()

    end = End(identity)
    async with server(identity, deaf):
        running = asyncio.create_task(end.connection.run())
        await asyncio.wait_for(end.connection.connected.wait(), 20)
        running.cancel()
        # Far below the closing handshake's default of ten seconds.
        done, _ = await asyncio.wait({running}, timeout=5)
        over.set()
        assert done
