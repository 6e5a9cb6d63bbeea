"""Answers: plain ones, and blobs by the quickest way the server offers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlencode

from asgiref.typing import ASGISendCallable, HTTPScope

from agent.protocol.errors import WharfError
from registry.storage.store import BlobFile
from registry.v2.request import ClientGone
from registry.v2.threads import files

READ_BYTES = 1 << 20
INLINE_BYTES = 64 << 10  # smaller blobs go out in one message
WARNING_BYTES = 4096  # of all Warning headers together (distribution-spec, "Warnings")

Headers = Mapping[str, str]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Response:
    """`length` is given for HEAD, where Content-Length describes a body that is not sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    warnings: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class BlobResponse:
    """`count` bytes of an open blob from `offset`. Sending closes the file."""

    status: int
    headers: dict[str, str]
    blob: BlobFile
    offset: int
    count: int


@dataclass(slots=True)
class PiecesResponse:
    """`count` bytes that come piece by piece. A WharfError among them breaks the connection: no part is taken for the whole."""

    status: int
    headers: dict[str, str]
    pieces: AsyncGenerator[bytes, None]
    count: int


AnyResponse: TypeAlias = Response | BlobResponse | PiecesResponse


def json_response(status: int, data: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, {"content-type": "application/json", **(headers or {})}, json.dumps(data).encode())


def next_link(path: str, parameters: Mapping[str, str]) -> str:
    """A Link header to the next page, host-relative (RFC 8288)."""
    return f'<{path}?{urlencode(parameters)}>; rel="next"'


def head_of(response: Response) -> bytes:
    """The header lines and the empty line, as they go over the wire."""
    return b"".join([b"%b: %b\r\n" % header for header in _raw_headers(response)] + [b"\r\n"])


def _raw_headers(response: Response) -> list[tuple[bytes, bytes]]:
    length = len(response.body) if response.length is None else response.length
    raw = _encode({"content-length": str(length), "docker-distribution-api-version": "registry/2.0", **response.headers})
    raw.extend(_warnings(response.warnings))
    raw.extend((b"oci-tag", tag.encode("latin-1")) for tag in response.tags)
    return raw


async def send_response(scope: HTTPScope, send: ASGISendCallable, response: AnyResponse) -> None:
    if isinstance(response, PiecesResponse):
        await _send_pieces(send, response)
        return
    if isinstance(response, BlobResponse):
        await _send_blob(scope, send, response)
        return
    raw = _raw_headers(response)
    await send({"type": "http.response.start", "status": response.status, "headers": raw, "trailers": False})
    body = b"" if scope["method"] == "HEAD" else response.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _encode(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _warnings(texts: Iterable[str]) -> Iterable[tuple[bytes, bytes]]:
    room = WARNING_BYTES
    for text in texts:
        clean = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in text)
        value = f'299 - "{clean}"'.encode("latin-1")
        room -= len(value)
        if room < 0:
            return
        yield b"warning", value


async def _send_pieces(send: ASGISendCallable, response: PiecesResponse) -> None:
    raw = _encode({"content-length": str(response.count), "docker-distribution-api-version": "registry/2.0", **response.headers})
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": raw, "trailers": False})
        async for piece in response.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except ClientGone:
        return
    except WharfError as error:
        log.warning("an answer broke off: %s", error)  # the server ends the connection of an answer that is not complete
    else:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await response.pieces.aclose()


async def _send_blob(scope: HTTPScope, send: ASGISendCallable, response: BlobResponse) -> None:
    sender: Any = send  # the file extensions are not in asgiref's types
    raw = _encode({"content-length": str(response.count), "docker-distribution-api-version": "registry/2.0", **response.headers})
    try:
        start = {"type": "http.response.start", "status": response.status, "headers": raw, "trailers": False}
        # A blob of a store without files is read and sent.
        descriptor = response.blob.fileno()
        extensions = (scope.get("extensions") or {}) if descriptor is not None else {}
        if response.count <= INLINE_BYTES:
            body = await files(response.blob.read_at, response.offset, response.count) if response.count else b""
            await sender(start)
            await sender({"type": "http.response.body", "body": body, "more_body": False})
        elif "http.response.zerocopysend" in extensions:
            await sender(start)
            await sender(
                {
                    "type": "http.response.zerocopysend",
                    "file": descriptor,
                    "offset": response.offset,
                    "count": response.count,
                    "more_body": False,
                }
            )
        elif "http.response.pathsend" in extensions and response.offset == 0 and response.count == response.blob.size:
            await sender(start)
            # By descriptor: the collector may unlink the blob's own name at any time.
            await sender({"type": "http.response.pathsend", "path": f"/proc/self/fd/{descriptor}"})
        else:
            await sender(start)
            await _send_by_reading(sender, response)
    finally:
        response.blob.close()


async def _send_by_reading(sender: Any, response: BlobResponse) -> None:
    """Read ahead by one piece, so that disk and socket work at the same time."""
    offset, end = response.offset, response.offset + response.count
    data = await files(response.blob.read_at, offset, min(READ_BYTES, end - offset))
    while data:
        offset += len(data)
        ahead = None
        if offset < end:
            ahead = asyncio.ensure_future(files(response.blob.read_at, offset, min(READ_BYTES, end - offset)))
        try:
            await sender({"type": "http.response.body", "body": data, "more_body": offset < end})
        finally:
            data = await ahead if ahead is not None else b""
