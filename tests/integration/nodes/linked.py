"""The node port, served for real in the test's own event loop, and nodes spoken by hand: real TLS, real wire, real rows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from agent.link.identity import Cluster, Identity, new_key_and_csr
from agent.protocol import messages as m
from agent.protocol.wire import Acknowledged, Data, Received, State, Wire
from controlplane.pki.cluster import ensure_authorities
from controlplane.server.app import Edge
from controlplane.server.listener import Listener, bind, configure
from controlplane.server.web import Certificates
from nodes import actions
from nodes.link.app import application
from nodes.link.hub import HUB
from nodes.models import Node
from tests.integration.nodes import fleet

T = TypeVar("T")
WAIT = 20.0
_names = itertools.count()


async def rows(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """A piece of ORM work, in the hub's threads."""
    return await HUB.rows(call, *args, **kwargs)


async def until(condition: Callable[[], Any], what: str, seconds: float = WAIT) -> Any:
    """Ask the rows (`condition` runs in a thread) until they say so."""
    deadline = time.monotonic() + seconds
    while True:
        value = await rows(condition)
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def node_port() -> AsyncIterator[int]:
    """The listener of the node port with the hub's loops; its port."""
    certificates = Certificates()

    def prepare() -> None:
        ensure_authorities()
        certificates.load(links=True)

    await rows(prepare)
    context = certificates.contexts["node"]
    listener = Listener(
        configure(Edge(application), context=context, certificate=certificates.pem("node"), links=True), bind("127.0.0.1", 0)
    )
    async with HUB.running():
        serving = asyncio.create_task(listener._serve())
        await asyncio.wait_for(listener.open.wait(), WAIT)
        try:
            yield listener.port
        finally:
            listener.leave()
            await asyncio.wait_for(serving, WAIT)
            async with asyncio.timeout(WAIT):
                while len(HUB):
                    await asyncio.sleep(0.02)


async def join(home: Path, port: int, hostname: str = "") -> Identity:
    """A node that joined with a token: its row, and its identity below `home`."""
    hostname = hostname or f"n{next(_names)}"
    key, csr = new_key_and_csr(hostname)

    def redeem() -> actions.Joined:
        _, token = actions.create_join_token(fleet.user(f"admin-{hostname}", admin=True))
        return actions.join(token, csr, hostname, address="127.0.0.1")

    joined = await rows(redeem)
    identity = Identity(home / hostname)
    links = (f"127.0.0.1:{port}",)
    identity.save(Cluster(joined.node_id, links, joined.server_name), key, joined.certificate, joined.ca)
    return identity


class Peer:
    """A node's end of a link. What arrives is kept until it is expected; `code` is how the socket ended."""

    def __init__(self, identity: Identity, wire: Wire | None = None, *, boot_id: str = "boot-1") -> None:
        self.identity = identity
        self.node_id = identity.cluster().node_id
        self.wire = wire or Wire(m.AGENT)
        self.boot_id = boot_id
        self.epoch = 0
        self.acknowledge = True
        self.code: int | None = None
        self._socket: ClientConnection | None = None
        self._arrived: list[Any] = []
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Peer:
        cluster = self.identity.cluster()
        self._socket = await connect(
            f"wss://{cluster.links[0]}/link/v1",
            ssl=self.identity.ssl_context(),
            server_hostname=cluster.server_name,
            compression=None,
            ping_interval=None,
            max_size=None,
            proxy=None,
            close_timeout=2,
        )
        self.wire.connect()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """The link ends without a word."""
        assert self._socket is not None
        self._socket.transport.abort()
        if self._reader is not None:
            await self._reader
        if self.wire.state is not State.IDLE:
            self.wire.disconnect()

    async def _read(self) -> None:
        assert self._socket is not None
        try:
            async for frame in self._socket:
                for event in self.wire.receive(frame):
                    if isinstance(event, Received) and event.seq is not None and self.acknowledge:
                        self.wire.done(event.seq)
                    self._arrived.append(event)
                await self.flush()
                self._news.set()
        except ConnectionClosed:
            pass
        finally:
            self.code = self._socket.close_code
            self._news.set()

    async def flush(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(ConnectionClosed):
            for frame in self.wire.frames():
                await self._socket.send(frame)

    async def raw(self, frame: str | bytes) -> None:
        """Whatever a hostile node might put on its socket."""
        assert self._socket is not None
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(frame)

    async def send(self, message: Any) -> None:
        self.wire.send(message)
        await self.flush()

    async def hello(self, *, session: str = "", **fields: Any) -> Any:
        """Greet; the answer (Welcome or Refused)."""
        values: dict[str, Any] = {"epoch": self.epoch, "assign_rev": 0, **fields}
        await self.send(m.Hello((m.VERSION,), "0.1", self.boot_id, session=session, received=self.wire.received, **values))
        answer = await self.expect(m.Welcome, m.Refused)
        if isinstance(answer, m.Welcome):
            self.epoch = answer.epoch
        return answer

    async def beat(self) -> None:
        await self.send(m.Heartbeat(self.epoch, 0, time.monotonic()))

    async def expect(self, *kinds: type[Any], where: Callable[[Any], bool] = lambda _: True) -> Any:
        """The first message (or event) of one of `kinds` that has arrived or will; taken out of what is kept."""
        async with asyncio.timeout(WAIT):
            while True:
                for event in self._arrived:
                    found = event.message if isinstance(event, Received | Acknowledged) else event
                    if isinstance(event, Acknowledged) and Acknowledged not in kinds:
                        continue
                    if isinstance(event if isinstance(event, Acknowledged | Data) else found, kinds) and where(found):
                        self._arrived.remove(event)
                        return found
                assert self.code is None, f"the link ended with {self.code}"
                self._news.clear()
                await self._news.wait()

    async def closed(self) -> int:
        """Wait for the end; its code."""
        async with asyncio.timeout(WAIT):
            while self.code is None:
                self._news.clear()
                await self._news.wait()
        return self.code

    def row(self) -> Node:
        return Node.objects.get(pk=self.node_id)
