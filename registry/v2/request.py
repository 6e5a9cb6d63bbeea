"""One HTTP request as the handlers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

from asgiref.typing import ASGIReceiveCallable, HTTPScope
from django.conf import settings

from agent.protocol.errors import WharfError
from controlplane.server.again import Again
from registry.token import Claims

BATCH = 1 << 20  # bytes handed to one hash-and-write call
STALL_SECONDS = 60.0  # a body that does not move is dropped


class ClientGone(WharfError):
    """The client closed the connection, or its body stopped moving: there is nobody to answer."""

    code = "client_gone"
    status = 400


@dataclass(frozen=True, slots=True)
class Memo:
    """What the answer to a request stands on, noted by its handler when it may be given again (registry.v2.again).

    `pushes`: may the caller push there too? `pull`: (tag or digest, digest) when it counts as one. `pusher_until`: when the
    question of a pusher has to touch the blob (time.time()).
    """

    claims: Claims
    name: str
    pushes: bool
    pull: tuple[str, str] | None = None
    pusher_until: float = float("inf")


@dataclass(frozen=True, slots=True)
class Scoped:
    """What a request with `ns` asked for: the repository `name` of the registry `host`."""

    host: str
    name: str


class Request:
    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable) -> None:
        self.scope = scope
        self.method = scope["method"]
        self.path = scope["path"]
        self._receive = receive
        self.body_ended = False
        self._unread = b""
        # see registry.v2.again
        self.again: Again | None = None
        self.version: tuple[int, int] | None = None
        self.memo: Memo | None = None
        self.scoped: Scoped | None = None  # see registry.v2.upstreams

    @cached_property
    def headers(self) -> dict[str, str]:
        """Lower-case names; lines of the same name are joined with ", " (RFC 9110, 5.3)."""
        result: dict[str, str] = {}
        for raw_name, raw_value in self.scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            result[name] = f"{result[name]}, {value}" if name in result else value
        return result

    @cached_property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def parameter(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def length(self) -> int | None:
        """Content-Length; None for a chunked body."""
        text = self.headers.get("content-length", "")
        if text.isdigit():
            return int(text)
        return None if "transfer-encoding" in self.headers else 0

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return client[0] if client else ""

    @cached_property
    def base_url(self) -> str:
        """Scheme and host as the client sees them. X-Forwarded-* count only from a trusted proxy."""
        scheme, host = self.scope["scheme"], self.headers.get("host", "localhost")
        if self.address in settings.TRUSTED_PROXIES or (not self.address and "unix" in settings.TRUSTED_PROXIES):
            scheme = self.headers.get("x-forwarded-proto", scheme).partition(",")[0].strip()
            host = self.headers.get("x-forwarded-host", host).partition(",")[0].strip()
        return f"{scheme}://{host}"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. The first read is what makes the server send 100 Continue: refuse before it."""
        if self._unread:
            kept, self._unread = self._unread, b""
            yield kept
        while not self.body_ended:
            message: Any = await self._next()
            if message["type"] != "http.request":
                raise ClientGone("the client went away in the middle of a body")
            self.body_ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                yield body

    def unread(self, body: bytes) -> None:
        """Give back what `body` read, for somebody else to read."""
        self._unread = body

    async def batches(self) -> AsyncIterator[bytes]:
        """The body in pieces of at least BATCH bytes, the last one smaller."""
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            pieces.append(chunk)
            size += len(chunk)
            if size >= BATCH:
                yield b"".join(pieces)
                pieces, size = [], 0
        if pieces:
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def body(self, limit: int, too_large: WharfError) -> bytes:
        """The whole body; raises `too_large` beyond `limit` bytes, before reading when Content-Length tells."""
        if (self.length or 0) > limit:
            raise too_large
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise too_large
            pieces.append(chunk)
        return b"".join(pieces)

    async def gone(self) -> None:
        """Until the client goes away, or has its whole answer. For requests whose body nobody reads."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> Any:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                return await self._receive()
        except TimeoutError as error:
            raise ClientGone(f"the body did not move for {STALL_SECONDS:.0f} seconds") from error
