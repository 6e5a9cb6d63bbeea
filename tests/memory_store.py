"""A blob store in memory, for tests of what rows do: it passes tests/contract/test_blob_stores.py like the others."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

from agent.protocol.oci import Digest
from registry.storage.store import BlobFile, DigestMismatch, StoredBlob, UploadWriter, check_session

Stored = dict[Digest, tuple[bytes, float]]  # bytes, when they were stored


class _Blob:
    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def fileno(self) -> None:
        return None

    def read_at(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def close(self) -> None:
        pass


class _Unfinished(_Blob):
    """Keeps what it saw last, as an open file would."""

    def __init__(self, sessions: dict[str, tuple[bytes, float]], session: str) -> None:
        super().__init__(sessions[session][0])
        self._sessions, self._session = sessions, session

    def read_at(self, offset: int, count: int) -> bytes:
        self._data = self._sessions.get(self._session, (self._data, 0.0))[0]
        return super().read_at(offset, count)


class _Writer:
    def __init__(self, store: MemoryStore, session: str, offset: int) -> None:
        self._store, self._session = store, session
        store.sessions[session] = (store.sessions.get(session, (b"", 0.0))[0][:offset], store.clock())

    @property
    def offset(self) -> int:
        return len(self._store.sessions[self._session][0])

    def write(self, data: bytes) -> None:
        self._store.sessions[self._session] = (self._store.sessions[self._session][0] + data, self._store.clock())

    def state(self) -> bytes | None:
        return None

    def close(self) -> None:
        pass


class MemoryStore:
    name = "memory"
    redirects = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.visible: Stored = {}
        self.trashed: Stored = {}
        self.bad: Stored = {}
        self.sessions: dict[str, tuple[bytes, float]] = {}

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        return _Writer(self, check_session(session), offset)

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        data, _ = self.sessions.pop(session)
        self.put(digest, data)

    def put(self, digest: Digest, data: bytes) -> None:
        if hashlib.new(digest.algorithm, data).hexdigest() != digest.hex:
            raise DigestMismatch(f"the {len(data)} bytes sent do not hash to {digest}")
        self.visible[digest] = (data, self.clock())

    def discard(self, session: str) -> None:
        self.sessions.pop(check_session(session), None)

    def holds(self, session: str) -> bool:
        return session in self.sessions

    def unfinished(self, session: str) -> BlobFile | None:
        return _Unfinished(self.sessions, session) if session in self.sessions else None

    def open(self, digest: Digest) -> BlobFile | None:
        found = self.visible.get(digest)
        return None if found is None else _Blob(found[0])

    def location(self, digest: Digest) -> None:
        return None

    def size(self, digest: Digest) -> int | None:
        found = self.visible.get(digest)
        return None if found is None else len(found[0])

    def trash(self, digest: Digest) -> None:
        self.trash_all([digest])

    def trash_all(self, digests: Sequence[Digest]) -> None:
        self._move(digests, self.trashed)

    def _move(self, digests: Sequence[Digest], target: Stored) -> None:
        for digest in digests:
            if digest in self.visible:
                target[digest] = (self.visible.pop(digest)[0], self.clock())

    def restore(self, digest: Digest) -> bool:
        if digest in self.trashed:
            self.visible[digest] = self.trashed.pop(digest)
        return digest in self.visible

    def quarantine(self, digest: Digest) -> None:
        self._move([digest], self.bad)

    def empty_trash(self, older_than: float) -> int:
        old = [digest for digest, (_, at) in self.trashed.items() if self.clock() - at > older_than]
        for digest in old:
            del self.trashed[digest]
        return len(old)

    def uploads(self) -> Iterator[tuple[str, float]]:
        yield from [(session, self.clock() - at) for session, (_, at) in self.sessions.items()]

    def blobs(self, beginning: str = "") -> Iterator[StoredBlob]:
        for digest, (data, at) in list(self.visible.items()):
            if str(digest).startswith(beginning):
                yield StoredBlob(digest, self.clock() - at, len(data))
