"""An open blob on S3: one stream that is read on from where it is, a new one when somebody jumps or the line breaks."""

from __future__ import annotations

from typing import Any

from registry.storage.s3.bucket import Bucket
from registry.storage.store import StoreAway

STREAM_BYTES = 1 << 20  # a read of at least this much is taken for the beginning of a long one


class S3File:
    """Memory is what one read asks for. Not for two threads at once."""

    def __init__(self, bucket: Bucket, names: tuple[str, str], size: int) -> None:
        self._bucket = bucket
        self._names = names  # where it is, and where it is once it was deleted
        self.size = size
        self._body: Any = None
        self._position = 0

    def fileno(self) -> None:
        return None

    def read_at(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        if self._body is None or self._position != offset:
            self._open(offset, count)
        try:
            data = self._read(count)
        except StoreAway:  # a stream that stood still while its reader did is often cut: once more from here
            self._open(offset, count)
            data = self._read(count)
        self._position = offset + len(data)
        return data

    def _read(self, count: int) -> bytes:
        pieces, missing = [], count
        with self._bucket.explained():
            while missing and (piece := self._body.read(missing)):
                pieces.append(piece)
                missing -= len(piece)
        if missing:
            raise StoreAway(f"the stream from S3 ended {missing} bytes early")
        return b"".join(pieces)

    def _open(self, offset: int, count: int) -> None:
        self.close()
        last = offset + count - 1 if count < STREAM_BYTES else None
        for name in self._names:
            self._body = self._bucket.get(name, offset, last)
            if self._body is not None:
                self._position = offset
                return
        raise StoreAway("the blob was deleted while it was read")

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
