"""Two stores as one, while blobs move from the second to the first: writes go to the first, reads fall back on the second.

An upload goes on in the store where it began. What the collector takes out of sight goes from both, and comes back from either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from agent.protocol.oci import Digest
from registry.storage.store import BlobFile, BlobStore, StoredBlob, UploadWriter


class MovingStore:
    def __init__(self, first: BlobStore, second: BlobStore) -> None:
        self.first, self.second = first, second
        self.redirects = first.redirects
        self.name = f"{first.name} and {second.name}"

    def _of(self, session: str) -> BlobStore:
        return self.second if self.second.holds(session) and not self.first.holds(session) else self.first

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        store = self.first if offset == 0 else self._of(session)
        return _Writer(store, store.writer(session, offset, algorithm, state))

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        assert isinstance(writer, _Writer)  # noqa: S101  # drivers are never mixed
        writer.store.commit(session, writer.inner, digest)

    def put(self, digest: Digest, data: bytes) -> None:
        self.first.put(digest, data)

    def discard(self, session: str) -> None:
        self.first.discard(session)
        self.second.discard(session)

    def holds(self, session: str) -> bool:
        return self.first.holds(session) or self.second.holds(session)

    def unfinished(self, session: str) -> BlobFile | None:
        return self._of(session).unfinished(session)

    def open(self, digest: Digest) -> BlobFile | None:
        # Never the other way round: the mover copies from the second to the first, and nothing goes back.
        return self.first.open(digest) or self.second.open(digest)

    def location(self, digest: Digest) -> str | None:
        """Of the first only when it is there: an address that leads nowhere would be worse than streaming."""
        url = self.first.location(digest)
        if url is not None and self.first.size(digest) is not None:
            return url
        return None if url is None else self.second.location(digest)

    def size(self, digest: Digest) -> int | None:
        found = self.first.size(digest)
        return self.second.size(digest) if found is None else found

    def trash(self, digest: Digest) -> None:
        self.trash_all([digest])

    def trash_all(self, digests: Sequence[Digest]) -> None:
        self.first.trash_all(digests)
        self.second.trash_all(digests)

    def restore(self, digest: Digest) -> bool:
        return self.first.restore(digest) or self.second.restore(digest)

    def quarantine(self, digest: Digest) -> None:
        self.first.quarantine(digest)
        self.second.quarantine(digest)

    def empty_trash(self, older_than: float) -> int:
        return self.first.empty_trash(older_than) + self.second.empty_trash(older_than)

    def uploads(self) -> Iterator[tuple[str, float]]:
        return chain(self.first.uploads(), self.second.uploads())

    def blobs(self, beginning: str = "") -> Iterator[StoredBlob]:
        seen = set()
        for blob in self.first.blobs(beginning):
            seen.add(blob.digest)
            yield blob
        yield from (blob for blob in self.second.blobs(beginning) if blob.digest not in seen)


class _Writer:
    """A writer that knows its store."""

    def __init__(self, store: BlobStore, inner: UploadWriter) -> None:
        self.store, self.inner = store, inner

    @property
    def offset(self) -> int:
        return self.inner.offset

    def write(self, data: bytes) -> None:
        self.inner.write(data)

    def state(self) -> bytes | None:
        return self.inner.state()

    def close(self) -> None:
        self.inner.close()
