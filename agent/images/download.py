"""One blob from a registry into the content store, going on by Range wherever a connection broke."""

from __future__ import annotations

import re
from typing import Final

import httpx

from agent.images.distribution import ATTEMPTS, RegistryClient, RegistryEndpoint, as_unavailable, pause
from agent.images.errors import RegistryUnavailable
from agent.images.store import ContentStore, Ingest
from agent.images.threads import in_thread
from agent.images.transfers import Progress
from agent.protocol.errors import Throttled
from agent.protocol.oci import Descriptor
from agent.storage.errors import DigestMismatch

_PIECE: Final = 1 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# A line that carries some bytes each time is not given up, but neither is it followed for ever.
_MAX_BREAKS: Final = 1000


class RangeRefused(RegistryUnavailable):
    """The registry answered a Range request with another range; the blob is fetched from its beginning."""

    code = "range_refused"


async def download(
    blob: Descriptor, *, endpoint: RegistryEndpoint, repository: str, content: ContentStore, progress: Progress
) -> None:
    """Fetch and verify one blob. Raises `DigestMismatch`, `RegistryUnavailable` and what the registry refuses."""
    if await in_thread(content.has, blob.digest):
        return
    async with RegistryClient(endpoint, repository, "pull") as client:
        ingest = await in_thread(content.ingest, blob.digest)
        with ingest:
            await _fill(ingest, blob, client, progress)
            await in_thread(ingest.commit)


async def _fill(ingest: Ingest, blob: Descriptor, client: RegistryClient, progress: Progress) -> None:
    failures = breaks = 0
    if ingest.offset > blob.size:
        ingest.restart()
    while ingest.offset < blob.size:
        before = ingest.offset
        try:
            await _stream(ingest, blob, client, progress)
        except (httpx.TransportError, RegistryUnavailable, Throttled) as error:
            breaks += 1
            failures = 0 if ingest.offset > before else failures + 1
            if isinstance(error, RangeRefused):
                ingest.restart()
            if failures >= ATTEMPTS or breaks >= _MAX_BREAKS:
                raise as_unavailable(error, client.endpoint.url) from error
            if failures:
                await pause(failures, at_least=getattr(error, "retry_after", 0.0))


async def _stream(ingest: Ingest, blob: Descriptor, client: RegistryClient, progress: Progress) -> None:
    offset = ingest.offset
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    async with client.stream("GET", client.url(f"blobs/{blob.digest}"), expect=(200, 206, 416), headers=headers) as response:
        if response.status_code == 416:
            raise RangeRefused(f"the registry has no bytes of blob {blob.digest} from {offset} on")
        if response.status_code == 206:
            _check_range(response, offset, blob.size)
        elif offset:
            ingest.restart()  # 200: the whole blob comes
        pending = bytearray()
        try:
            async for piece in response.aiter_raw():
                pending += piece
                if ingest.offset + len(pending) > blob.size:
                    raise DigestMismatch(f"blob {blob.digest} is longer than the {blob.size} bytes its manifest promises")
                if len(pending) >= _PIECE:
                    await _flush(ingest, pending, blob, progress)
        finally:
            await _flush(ingest, pending, blob, progress)  # what came before a break counts
    if ingest.offset < blob.size:
        raise httpx.ReadError(f"the body ended after {ingest.offset} of {blob.size} bytes")


async def _flush(ingest: Ingest, pending: bytearray, blob: Descriptor, progress: Progress) -> None:
    if pending:
        data = bytes(pending)
        pending.clear()
        await in_thread(ingest.write, data)
        progress({"digest": str(blob.digest), "status": "downloading", "current": ingest.offset, "total": blob.size})


def _check_range(response: httpx.Response, offset: int, size: int) -> None:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if match is None or int(match[1]) != offset or match[3] not in ("*", str(size)):
        raise RangeRefused(f"asked for bytes from {offset}, got {response.headers.get('content-range')!r}")
