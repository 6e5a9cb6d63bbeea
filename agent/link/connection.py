"""The websocket to the control plane: connect, TLS, back-off, feed the Wire.

One link at a time. Losing it never stops the node: the worker goes on enforcing what it holds, and the Wire keeps what the
control plane has not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from agent.link.identity import Cluster, Identity
from agent.protocol import messages as m
from agent.protocol.errors import WharfError
from agent.protocol.wire import Event, ProtocolViolation, Received, State, Wire

log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
MAX_DELAY = 8.0
CONNECT_TIMEOUT = 10.0
WELCOME_TIMEOUT = 15.0  # the control plane may wait for its database meanwhile
CLOSE_TIMEOUT = 0.5  # seconds for the closing handshake: an agent that ends must not wait for a silent peer
STEADY = 5.0  # a link that lived shorter counts as a failed attempt: back-off goes on growing


class Connection:
    """Keeps the node's link up for ever.

    `hello()` makes the greeting of each attempt; `handle(event)` is awaited for every event in order; `beat()` makes a heartbeat.
    A link on which nothing arrives for the server's grace is closed: half-open connections look alive to TCP alone.
    """

    def __init__(
        self,
        identity: Identity,
        wire: Wire,
        *,
        hello: Callable[[], m.Hello],
        handle: Callable[[Event], Awaitable[None]],
        beat: Callable[[], m.Heartbeat],
    ) -> None:
        self._identity = identity
        self._wire = wire
        self._hello = hello
        self._handle = handle
        self._beat = beat
        self._wake = asyncio.Event()
        self._heard = 0.0
        self._heartbeat, self._grace = 2.0, 6.0
        self._window = 2.0
        self._told = ""
        self.connected = asyncio.Event()
        self.host = ""  # of the control plane, as the current or last link reached it

    def flush(self) -> None:
        """Tell the writer that the Wire has frames. Call after every `wire.send`, `write` or `consumed`."""
        self._wake.set()

    def pace(self, heartbeat: float, grace: float) -> None:
        """Periods in seconds as the server chose them last."""
        self._heartbeat, self._grace = heartbeat, grace

    async def run(self) -> None:
        """Connect, serve, reconnect with full jitter; returns only when the control plane said never."""
        cluster = self._identity.cluster()
        attempt = random.randrange(len(cluster.links))  # noqa: S311  # spreads load, no secret
        delay = FIRST_DELAY
        while True:
            link = cluster.links[attempt % len(cluster.links)]
            attempt += 1
            started, self._heard = time.monotonic(), 0.0
            refused = await self._attempt(cluster, link)
            if refused is not None and refused.retry_after < 0:
                log.error("the control plane refused this node for good: %s", refused.detail)
                return
            if self._heard and time.monotonic() - started > STEADY:
                delay = FIRST_DELAY
                ceiling = self._window
            else:
                delay = ceiling = min(delay * 2, MAX_DELAY)
            least = refused.retry_after if refused else 0.0
            await asyncio.sleep(least + random.uniform(0, ceiling))  # noqa: S311  # jitter

    async def _attempt(self, cluster: Cluster, link: str) -> m.Refused | None:
        self.host = link.rpartition(":")[0]
        try:
            async with connect(
                f"wss://{link}/link/v1",
                ssl=self._identity.ssl_context(),
                server_hostname=cluster.server_name,
                compression=None,  # costs 34 kB a link at the server and buys nothing for small frames
                ping_interval=None,  # heartbeats are ours
                open_timeout=CONNECT_TIMEOUT,
                close_timeout=CLOSE_TIMEOUT,
                max_size=16 << 20,
                proxy=None,
            ) as socket:
                return await self._serve(socket)
        except ConnectionClosed as error:
            self._tell(f"link to {link} closed: {error}")
        except (OSError, TimeoutError, WebSocketException) as error:
            self._tell(f"no link to {link}: {error}")
        except ProtocolViolation as error:
            log.error("link to %s ended, the control plane broke the protocol: %s", link, error.detail)
        except WharfError as error:
            log.error("link to %s ended: %s", link, error.detail)
        finally:
            self.connected.clear()
            if self._wire.state is not State.IDLE:
                for event in self._wire.disconnect():
                    await self._handle(event)
        return None

    def _tell(self, text: str) -> None:
        """Once: a control plane that is away for an hour must not fill the log."""
        log.log(logging.DEBUG if text == self._told else logging.INFO, "%s", text)
        self._told = text

    async def _serve(self, socket: ClientConnection) -> m.Refused | None:
        self._wire.connect()
        self._wire.send(self._hello())
        self.flush()
        refused: list[m.Refused] = []
        jobs = [
            asyncio.create_task(self._read(socket, refused), name="link-read"),
            asyncio.create_task(self._write(socket), name="link-write"),
            asyncio.create_task(self._pulse(), name="link-pulse"),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        return refused[0] if refused else None

    async def _read(self, socket: ClientConnection, refused: list[m.Refused]) -> None:
        async for frame in socket:
            self._heard = time.monotonic()
            for event in self._wire.receive(frame):
                message: Any = event.message if isinstance(event, Received) else None
                if isinstance(message, m.Refused):
                    refused.append(message)
                    return
                if isinstance(message, m.Welcome):
                    self.pace(message.heartbeat, message.grace)
                    self._window = message.reconnect_window
                    self._told = ""
                    self.connected.set()
                elif isinstance(message, m.HeartbeatAck):
                    self.pace(message.heartbeat, message.grace)
                await self._handle(event)
            self.flush()

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for frame in self._wire.frames():
                await socket.send(frame)

    async def _pulse(self) -> None:
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await self.connected.wait()
        except TimeoutError:
            raise TimeoutError(f"no welcome within {WELCOME_TIMEOUT:.0f} s") from None
        while True:
            self._wire.send(self._beat())
            self.flush()
            await asyncio.sleep(self._heartbeat * random.uniform(0.9, 1.1))  # noqa: S311  # jitter: nodes' beats drift apart
            if time.monotonic() - self._heard > self._grace:
                raise TimeoutError(f"nothing heard for {self._grace:.0f} s")
