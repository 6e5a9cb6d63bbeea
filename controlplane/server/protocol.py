"""uvicorn's HTTP protocol with four things more: the `tls` extension, `http.response.pathsend`, `http.response.zerocopysend`, and
`wharf.again` (controlplane.server.again): an application may answer a request whose bytes it has seen before without a task.

Sources: https://asgi.readthedocs.io/en/latest/extensions.html. uvicorn's minor version is pinned, for we lean on
`connection_made`, `connection_lost`, `data_received`, the parser's callbacks, `_start_asgi_task` and the cycle's fields;
tests/integration/controlplane/test_server_*.py hold them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from controlplane.server import files, tls
from controlplane.server.again import Again, Answerer, split

Send = Callable[[Any], Coroutine[Any, Any, None]]
PARTING = 0.5  # seconds that an idle peer has, when we leave, to answer the end of TLS
TLS_STATE = "wharf.tls"  # the key under which the connection's tls dictionary travels in scope["state"]


class ListenerConfig(Config):
    """uvicorn's configuration plus the PEM of our own certificate, which the `tls` extension shows."""

    server_certificate: str = ""


class WharfProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lost = asyncio.Event()
        self.in_message = False  # has the parser seen a part of a request?
        self.whole: tuple[bytes, bytes] | None = None  # the request that the parser is being fed with, if it came in one piece
        self.known: tuple[bytes, Answerer] | None = None  # see controlplane.server.again
        self.answered_at = 0.0  # loop time of the last answer that was given again

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it likewise
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        if connection is None or self.config.ssl is None:
            return
        # app_state is copied into scope["state"] of http and of the websocket that a connection becomes;
        # scope["extensions"] is not.
        certificate = getattr(self.config, "server_certificate", "")
        self.app_state = {**self.app_state, TLS_STATE: tls.extension(connection, self.config.ssl, certificate)}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.known = None
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        self.whole = None if self.in_message else split(data)
        if self.whole is not None and self.known is not None and self._answer_again(*self.whole, *self.known):
            return
        super().data_received(data)
        self.whole = None

    def on_message_begin(self) -> None:
        self.in_message = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self.in_message = False
        super().on_message_complete()

    def _answer_again(self, line: bytes, block: bytes, known: bytes, answerer: Answerer) -> bool:
        """Answer without the parser, which stands between two requests and need not know of this one."""
        if block != known or self.flow.write_paused or self.transport.is_closing():
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        found = answerer(line)
        if found is None:
            return False
        opening = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(b"".join((b"HTTP/1.1 200 OK\r\n", opening, *found)))
        self.server_state.total_requests += 1
        self.answered_at = self.loop.time()
        return True

    def timeout_keep_alive_handler(self) -> None:
        rest = self.answered_at + self.timeout_keep_alive - self.loop.time()
        if rest > 0:  # not idle: uvicorn's clock does not see the answers that were given again
            self.timeout_keep_alive_task = self.loop.call_later(rest, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """The server is leaving. An idle HTTP client does not read, so it never answers the end of TLS, and uvloop waits 30 s."""
        super().shutdown()
        self.loop.call_later(PARTING, self._part)

    def _part(self) -> None:
        if self.lost.is_set():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:  # a response is under way: its client reads
            self.loop.call_later(PARTING, self._part)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions = cycle.scope.setdefault("extensions", {})
        if extensions is not None:
            extensions["http.response.pathsend"] = {}
            extensions["http.response.zerocopysend"] = {}
            if self.whole is not None:
                extensions["wharf.again"] = Again(self, *self.whole)  # type: ignore[assignment]  # an extension of our own
        cycle.send = FileSender(self, cycle)  # type: ignore[method-assign,assignment]  # the hook stock uvicorn lacks
        super()._start_asgi_task(cycle, app)


class FileSender:
    """`cycle.send` that also takes the two file messages; all others go to uvicorn's own."""

    def __init__(self, protocol: WharfProtocol, cycle: RequestResponseCycle) -> None:
        self.protocol = protocol
        self.cycle = cycle
        self.plain: Send = cycle.send

    async def __call__(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.pathsend":
            file = await asyncio.to_thread(os.open, message["path"], os.O_RDONLY | os.O_CLOEXEC)
            try:
                await self.send_file(file, 0, os.fstat(file).st_size, more_body=False)
            finally:
                os.close(file)
        elif kind == "http.response.zerocopysend":
            file = message["file"] if isinstance(message["file"], int) else message["file"].fileno()
            offset = message.get("offset", 0)
            count = message.get("count")
            if count is None:
                count = max(0, os.fstat(file).st_size - offset)
            await self.send_file(file, offset, count, more_body=message.get("more_body", False))
        else:
            await self.plain(message)

    async def send_file(self, file: int, offset: int, count: int, *, more_body: bool) -> None:
        cycle = self.cycle
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError("A file is sent after http.response.start and before the end of the response.")
        if cycle.disconnected:
            return
        if cycle.scope["method"] != "HEAD":
            if cycle.chunked_encoding or cycle.scope["scheme"] == "https":
                await self._read_and_send(file, offset, count)
            else:
                await self._sendfile(file, offset, count)
        if not cycle.disconnected:
            await self.plain({"type": "http.response.body", "body": b"", "more_body": more_body})

    async def _read_and_send(self, file: int, offset: int, count: int) -> None:
        end = offset + count
        while offset < end and not self.cycle.disconnected:
            data = await files.read(file, offset, end - offset)
            offset += len(data)
            await self.plain({"type": "http.response.body", "body": data, "more_body": True})

    async def _sendfile(self, file: int, offset: int, count: int) -> None:
        cycle = self.cycle
        if count > cycle.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        try:
            await files.send_plain(cycle.transport, cycle.flow, cycle, self.protocol.lost, file, offset, count)
        except files.Gone:
            cycle.disconnected = True
            cycle.transport.abort()
            return
        cycle.expected_content_length -= count
