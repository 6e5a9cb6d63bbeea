"""Blobs as objects of an S3 bucket.

    blobs/<algorithm>/<xx>/<hex>   a blob
    uploads/<session>/…            an upload, see registry.storage.s3.session
    trash/<algorithm>-<hex>        deleted, kept for the trash window
    quarantine/<algorithm>-<hex>   bytes that are not what their name says, kept for whoever wants to know why

An object appears whole or not at all, which is all that a commit needs. Nothing here renames: a move is a copy within S3, then a
delete; a crash between the two leaves both, and either is enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain

from agent.protocol.oci import Digest
from registry.storage.hashing import ALGORITHMS
from registry.storage.s3.address import Address
from registry.storage.s3.bucket import Bucket
from registry.storage.s3.reading import S3File
from registry.storage.s3.session import folder
from registry.storage.s3.writing import Writer
from registry.storage.store import BlobFile, DigestMismatch, StoredBlob, UploadWriter, check_session

STALE_COPY = 24 * 3600.0  # seconds after which a copy in parts that nobody finished is aborted


class S3Store:
    name = "s3"

    def __init__(self, location: str) -> None:
        self.address = Address.parse(location)
        self.redirects = self.address.redirect
        self._bucket = Bucket(self.address)

    def close(self) -> None:
        """End its threads and connections."""
        self._bucket.close()

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        return Writer(self._bucket, check_session(session), offset, algorithm, state)

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        assert isinstance(writer, Writer)  # noqa: S101  # drivers are never mixed
        try:
            writer.commit(digest, _blob(digest))
        except DigestMismatch:
            writer.forget()
            self.discard(session)
            raise
        # After any other error the caller closes the writer, which stores what it holds, if that is possible.
        writer.forget()
        if writer.stored:
            self.discard(session)

    def put(self, digest: Digest, data: bytes) -> None:
        if hashlib.new(digest.algorithm, data).hexdigest() != digest.hex:
            raise DigestMismatch(f"the {len(data)} bytes sent do not hash to {digest}")
        self._bucket.put(_blob(digest), data)

    def discard(self, session: str) -> None:
        prefix = folder(check_session(session))
        for name, upload, _ in list(self._bucket.begun(prefix)):
            self._bucket.abort(name, upload)
        self._bucket.delete(name for name, _, _ in self._bucket.objects(prefix))

    def holds(self, session: str) -> bool:
        prefix = folder(check_session(session))
        return any(True for _ in chain(self._bucket.objects(prefix), self._bucket.begun(prefix)))

    def unfinished(self, session: str) -> BlobFile | None:
        return None  # the parts of a multipart upload cannot be read

    def open(self, digest: Digest) -> BlobFile | None:
        size = self._bucket.size(_blob(digest))
        return None if size is None else S3File(self._bucket, (_blob(digest), _trashed(digest)), size)

    def location(self, digest: Digest) -> str | None:
        return self._bucket.presigned(_blob(digest)) if self.address.redirect else None

    def size(self, digest: Digest) -> int | None:
        return self._bucket.size(_blob(digest))

    def trash(self, digest: Digest) -> None:
        self.trash_all([digest])

    def trash_all(self, digests: Sequence[Digest]) -> None:
        self._move([(_blob(digest), _trashed(digest)) for digest in digests])

    def restore(self, digest: Digest) -> bool:
        if not self._bucket.copy(_trashed(digest), _blob(digest)):
            return self.size(digest) is not None
        self._bucket.delete([_trashed(digest)])
        return True

    def quarantine(self, digest: Digest) -> None:
        self._move([(_blob(digest), f"quarantine/{digest.algorithm}-{digest.hex}")])

    def _move(self, pairs: list[tuple[str, str]]) -> None:
        self._bucket.each(lambda pair: self._bucket.copy(*pair), pairs)
        self._bucket.delete(source for source, _ in pairs)

    def empty_trash(self, older_than: float) -> int:
        old = [name for name, _, age in self._bucket.objects("trash/") if age > older_than]
        self._bucket.delete(old)
        for place in ("blobs/", "trash/", "quarantine/"):
            for name, upload, age in list(self._bucket.begun(place)):
                if age > STALE_COPY:
                    self._bucket.abort(name, upload)
        return len(old)

    def uploads(self) -> Iterator[tuple[str, float]]:
        ages: dict[str, float] = {}
        for name, _, age in self._bucket.objects("uploads/"):
            session = name.split("/")[1]
            ages[session] = min(age, ages.get(session, age))
        for name, upload, age in list(self._bucket.begun("uploads/")):
            session = name.split("/")[1]
            youngest = min([age, *(part[3] for part in self._bucket.parts(name, upload))])
            ages[session] = min(youngest, ages.get(session, youngest))
        yield from ages.items()

    def blobs(self, beginning: str = "") -> Iterator[StoredBlob]:
        algorithm, _, digits = beginning.partition(":")
        for each in [algorithm] if algorithm else ALGORITHMS:
            prefix = f"blobs/{each}/{digits}/" if digits else f"blobs/{each}/"
            for name, size, age in self._bucket.objects(prefix):
                yield StoredBlob(Digest(each, name.rpartition("/")[2]), age, size)


def _blob(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def _trashed(digest: Digest) -> str:
    return f"trash/{digest.algorithm}-{digest.hex}"
