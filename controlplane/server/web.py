"""A web process: its listeners, their certificates and the guests' lifespans, all in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings

from controlplane import notify
from controlplane.api import guests
from controlplane.pki.server import RENEWAL_CHECK, Files, ensure_certificate
from controlplane.server.app import App, Edge
from controlplane.server.listener import Listener, bind, configure, serve
from controlplane.server.throttle import TokenBucket
from controlplane.server.tls import server_context

log = structlog.get_logger(__name__)

LINK_BURST = 100  # links taken at once after a quiet time


def node_port_app() -> App | None:
    """The app of the node port: `<guest>.asgi.node_port_app` of the guest that has one."""
    for module in guests.modules("asgi"):
        app: App | None = getattr(module, "node_port_app", None)
        if app is not None:
            return app
    return None


@contextlib.asynccontextmanager
async def guest_lifespans() -> AsyncIterator[None]:
    """Every guest's `asgi.lifespan`, an async context manager round the time in which the process serves."""
    async with contextlib.AsyncExitStack() as stack:
        for module in guests.modules("asgi"):
            lifespan: Callable[[], Any] | None = getattr(module, "lifespan", None)
            if lifespan is not None:
                await stack.enter_async_context(lifespan())
        yield


class Certificates:
    """The TLS contexts by purpose ("api", "node"), renewed while the process runs."""

    def __init__(self) -> None:
        self.contexts: dict[str, ssl.SSLContext] = {}
        self.files: dict[str, Files] = {}

    def load(self, *, links: bool) -> None:
        """Makes what is missing. The clients' certificates of a port are those of its own purpose's roots. Asks the database."""
        for purpose in ("api", "node") if links else ("api",):
            files, _ = ensure_certificate(purpose)
            self.contexts[purpose] = server_context(
                str(files.certificate), str(files.key), client_roots=files.roots.read_text(), require_client=purpose == "node"
            )
            self.files[purpose] = files

    def pem(self, purpose: str) -> str:
        """The listener's own certificate."""
        return Path(self.files[purpose].certificate).read_text()

    async def renew(self) -> None:
        """For ever: new connections get the new certificate, old ones are left alone."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK.total_seconds())
            for purpose, context in self.contexts.items():
                files, made = await sync_to_async(ensure_certificate)(purpose)
                if made:
                    context.load_cert_chain(files.certificate, files.key)
                    log.info("certificate_renewed", purpose=purpose)


def listeners(app: App, certificates: Certificates) -> list[Listener]:
    """The API port, the node port when a guest answers it, the benchmarks' port when it is on. Raises OSError."""
    edge = Edge(app)
    api = configure(edge, context=certificates.contexts["api"], certificate=certificates.pem("api"))
    made = [Listener(api, bind(settings.ADDRESS, settings.PORT))]
    link = node_port_app()
    if link is not None:
        node = configure(Edge(link), context=certificates.contexts["node"], certificate=certificates.pem("node"), links=True)
        bucket = TokenBucket(settings.LINK_RATE, LINK_BURST, asyncio.get_running_loop().time)
        made.append(Listener(node, bind(settings.ADDRESS, settings.NODE_PORT), bucket=bucket))
    if settings.PLAIN_PORT:
        made.append(Listener(configure(edge, context=None), bind("127.0.0.1", settings.PLAIN_PORT)))
    return made


async def main(app: App) -> None:
    """Serve until SIGTERM or SIGINT."""
    certificates = Certificates()
    await sync_to_async(certificates.load)(links=node_port_app() is not None)
    running = listeners(app, certificates)

    def ready() -> None:
        gc.collect()
        gc.freeze()  # what start-up made stays: later collections need not walk it
        notify.send("READY=1")
        log.info("listening", ports=[listener.port for listener in running])

    async with guest_lifespans():
        background = [asyncio.create_task(certificates.renew()), asyncio.create_task(_signs_of_life())]
        try:
            await serve(running, ready=ready)
        finally:
            for task in background:
                task.cancel()


async def _signs_of_life() -> None:
    """A loop that no longer turns sends none, and is restarted."""
    while True:
        await asyncio.sleep(notify.WATCHDOG_EVERY)
        notify.send("WATCHDOG=1")
