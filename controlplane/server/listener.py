"""A listener: one socket, one ASGI app, and its TLS. A web process runs several in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from uvicorn import Server
from uvicorn.config import Config

from controlplane.server.protocol import ListenerConfig, WharfProtocol
from controlplane.server.throttle import TokenBucket

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 15.0  # seconds
GRACE = 8  # seconds a request may go on after SIGTERM; the launcher kills after 10


class ThrottledServer:
    """Stands where uvicorn keeps its asyncio servers: accepts on `sock` as fast as `bucket` allows."""

    def __init__(self, sock: socket.socket, factory: Any, context: ssl.SSLContext | None, bucket: TokenBucket) -> None:
        self.sock = sock
        self.factory = factory
        self.context = context
        self.bucket = bucket
        self.handshakes: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self.accepting = self.loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            await self.bucket.wait()
            try:
                connection, _ = await self.loop.sock_accept(self.sock)
            except OSError as error:  # out of descriptors: the backlog keeps the peer until some are free
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(0.5)
                continue
            task = self.loop.create_task(self._handshake(connection))
            self.handshakes.add(task)
            task.add_done_callback(self.handshakes.discard)

    async def _handshake(self, connection: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(
                self.factory, connection, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self.context else None
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError: no certificate, or one of another CA
            log.info("refused a connection: %s", error)
            connection.close()

    def close(self) -> None:
        self.accepting.cancel()
        for task in self.handshakes:
            task.cancel()
        self.sock.close()

    async def wait_closed(self) -> None:
        await asyncio.gather(self.accepting, *self.handshakes, return_exceptions=True)


class Listener(Server):
    """uvicorn's server on one socket that is already bound; signals are the business of `serve`."""

    def __init__(self, config: Config, sock: socket.socket, *, bucket: TokenBucket | None = None) -> None:
        super().__init__(config)
        self.sock = sock
        self.bucket = bucket
        self.open = asyncio.Event()
        self.leaving = asyncio.Event()

    @property
    def port(self) -> int:
        """The TCP port it is bound to."""
        return int(self.sock.getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.bucket is None:
            await super().startup(sockets=[self.sock])
            self.open.set()
            return
        await self.lifespan.startup()
        self.sock.listen(self.config.backlog)

        def factory() -> WharfProtocol:
            return WharfProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        self.servers = [ThrottledServer(self.sock, factory, self.config.ssl, self.bucket)]  # type: ignore[list-item]  # same close()
        self.started = True
        self.open.set()

    async def main_loop(self) -> None:
        """Once a second for the Date header, instead of uvicorn's ten wake-ups."""
        await self.on_tick(0)
        while not self.should_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.leaving.wait(), 1.0)
            await self.on_tick(0)

    def leave(self) -> None:
        """Stop accepting, finish what runs within GRACE seconds, then return from `_serve`."""
        self.should_exit = True
        self.leaving.set()


def bind(address: str, port: int) -> socket.socket:
    """A TCP socket bound to `address` (name, IPv4 or IPv6) and `port` (0: any). Raises OSError."""
    family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def configure(app: Any, *, context: ssl.SSLContext | None, certificate: str = "", links: bool = False) -> ListenerConfig:
    """The uvicorn configuration of a listener.

    links: no permessage-deflate, which costs 34 KB a connection; messages up to the link's own limit of 8 MiB. Forwarded headers
    are read by controlplane.api.actor, not here.
    """
    config = ListenerConfig(
        app,
        loop="uvloop",
        http=WharfProtocol,
        ws="websockets-sansio",
        ws_per_message_deflate=not links,
        ws_max_size=(9 << 20) if links else (1 << 20),
        lifespan="off",
        log_config=None,
        log_level="warning",  # uvicorn tells of every websocket that opens and closes: 10,000 links would fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
    )
    config.server_certificate = certificate
    return config


async def serve(listeners: Iterable[Listener], *, ready: Any = None) -> None:
    """Run `listeners` until SIGTERM or SIGINT. `ready()` is called once all of them accept."""
    running = list(listeners)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        for listener in running:
            listener.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    # Server.serve() would install handlers of its own, and the last of several servers would win: hence _serve().
    tasks = [loop.create_task(listener._serve()) for listener in running]
    announcer = loop.create_task(_announce(running, ready))
    try:
        await asyncio.gather(*tasks)
    finally:
        announcer.cancel()
        leave()


async def _announce(listeners: list[Listener], ready: Any) -> None:
    for listener in listeners:
        await listener.open.wait()
    if ready is not None:
        ready()
