"""A blob sent while it comes from another registry: read from the upload that another thread, or process, writes.

Nobody has checked these bytes when they are sent, so the sender does: its last piece goes out only when all of them hash to the
digest. Until then the answer is shorter than its Content-Length, and a client whose connection breaks knows that it has no blob.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

from registry.actions.arriving import ArrivingBlob
from registry.remote.errors import RemoteBroken
from registry.storage import open_store
from registry.storage.store import BlobFile
from registry.v2.threads import files

PIECE = 1 << 20
POLL = 0.02  # seconds between looks at an upload that has not grown


async def whole(blob: ArrivingBlob) -> None:
    """Until it is here. Raises what the fetch raised."""
    await asyncio.shield(asyncio.wrap_future(blob.done))


async def pieces(blob: ArrivingBlob) -> AsyncGenerator[bytes, None]:
    """Its bytes, as they come. Raises what the fetch raised, and RemoteBroken before the last piece of other bytes."""
    reader = _Reader(blob)
    try:
        while reader.sent < blob.size:
            ended = blob.done.done()  # asked first: what is read after it is all there is
            if ended:
                blob.done.result()
            if data := await files(reader.read, ended):
                yield data
            elif not ended:
                await asyncio.sleep(POLL)
    finally:
        reader.close()


class _Reader:
    """Reads along, first in the upload and at last, where that was another file, in the blob itself."""

    def __init__(self, blob: ArrivingBlob) -> None:
        self.blob = blob
        self.sent = 0
        self._store = open_store()
        self._hash: Any = hashlib.new(blob.digest.algorithm)
        self._part: BlobFile | None = None

    def read(self, ended: bool) -> bytes:
        """The next piece; b"" when there is none yet. Raises RemoteBroken."""
        if self._part is None:
            self._part = self._store.open(self.blob.digest) if ended else self._store.unfinished(self.blob.session)
        data = self._next()
        if not data and ended:  # another process wrote, and into another file
            self.close()
            self._part = self._store.open(self.blob.digest)
            data = self._next()
            if not data:
                raise RemoteBroken(f"{self.blob.digest} ended after {self.sent} of {self.blob.size} bytes")
        self._hash.update(data)
        self.sent += len(data)
        if self.sent == self.blob.size and self._hash.hexdigest() != self.blob.digest.hex:
            raise RemoteBroken(f"the bytes that came for {self.blob.digest} do not hash to it")
        return data

    def _next(self) -> bytes:
        return b"" if self._part is None else self._part.read_at(self.sent, min(PIECE, self.blob.size - self.sent))

    def close(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
