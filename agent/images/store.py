"""The content store: blobs by digest, whole or absent. `<root>/blobs/<algorithm>/<hex>`, arrivals in `<root>/ingest/`.

A blob appears by rename after its bytes are synced and their digest is verified; a partial arrival keeps its place on disk, so
that a download goes on after a broken connection or a restart of the agent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, Final

from agent.images.errors import BlobUnknown
from agent.protocol.errors import Conflict
from agent.protocol.oci import Digest
from agent.storage import durable
from agent.storage.errors import DigestMismatch, disk_full_explained

_PIECE: Final = 1 << 20
_STALE_SECONDS: Final = 7 * 86400
_ALGORITHMS: Final = ("sha256", "sha512")


class IngestBusy(Conflict):
    """Another process or thread receives this very blob."""

    code = "ingest_busy"
    retry = True


class Ingest:
    """One arriving blob. `offset` bytes are on disk and hashed; leaving the `with` block uncommitted keeps them for later."""

    def __init__(self, store: ContentStore, digest: Digest) -> None:
        self._store = store
        self.digest = digest
        self._path = store.ingest_path(digest)
        self.offset = 0
        self._hash = hashlib.new(digest.algorithm)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise IngestBusy(f"blob {digest} is already arriving") from None
        while data := os.pread(self._fd, _PIECE, self.offset):
            self._hash.update(data)
            self.offset += len(data)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        with disk_full_explained():
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                view = view[written:]

    def restart(self) -> None:
        """Forget what arrived so far."""
        os.ftruncate(self._fd, 0)
        self.offset = 0
        self._hash = hashlib.new(self.digest.algorithm)

    def commit(self) -> None:
        """Verify and publish. Raises `DigestMismatch` and forgets the bytes."""
        found = self._hash.hexdigest()
        if found != self.digest.hex:
            durable.remove(self._path)
            raise DigestMismatch(f"received bytes with digest {self.digest.algorithm}:{found}, expected {self.digest}")
        target = self._store.path(self.digest)
        with disk_full_explained():  # blocks may be allocated as late as this
            os.fdatasync(self._fd)
            os.replace(self._path, target)
            durable.sync_directory(os.path.dirname(target))


class ContentStore:
    def __init__(self, root: str) -> None:
        self.root = root
        for algorithm in _ALGORITHMS:
            os.makedirs(os.path.join(root, "blobs", algorithm), mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(root, "ingest"), mode=0o700, exist_ok=True)
        with os.scandir(os.path.join(root, "ingest")) as entries:
            for entry in entries:
                # A local `put` that a crash cut off cannot go on; an arrival could, but nobody has asked for it for days.
                if entry.name.endswith(".new") or time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    durable.remove(entry.path)

    def path(self, digest: Digest) -> str:
        return os.path.join(self.root, "blobs", digest.algorithm, digest.hex)

    def ingest_path(self, digest: Digest) -> str:
        return os.path.join(self.root, "ingest", f"{digest.algorithm}-{digest.hex}.part")

    def has(self, digest: Digest) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: Digest) -> int:
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise _unknown(digest) from None

    def arrived(self, digest: Digest) -> int:
        """Bytes that need not be fetched again."""
        for path in (self.path(digest), self.ingest_path(digest)):
            try:
                return os.stat(path).st_size
            except FileNotFoundError:
                continue
        return 0

    def open(self, digest: Digest) -> IO[bytes]:
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise _unknown(digest) from None

    def read(self, digest: Digest) -> bytes:
        """A small blob whole (manifests, configurations)."""
        with self.open(digest) as file:
            return file.read()

    def ingest(self, digest: Digest) -> Ingest:
        """Go on with, or begin, the arrival of a blob. Reads what is there already: blocking."""
        return Ingest(self, digest)

    def put(self, data: bytes | Iterable[bytes], digest: Digest | None = None, *, algorithm: str = "sha256") -> Digest:
        """Store local bytes and return their digest; with `digest` given they must match it (`DigestMismatch`)."""
        hasher = hashlib.new(digest.algorithm if digest else algorithm)
        temporary = os.path.join(self.root, "ingest", f"{uuid.uuid4().hex}.new")
        try:
            with disk_full_explained(), open(temporary, "xb") as file:
                for piece in (data,) if isinstance(data, bytes) else data:
                    hasher.update(piece)
                    file.write(piece)
                file.flush()
                os.fdatasync(file.fileno())
            found = Digest(digest.algorithm if digest else algorithm, hasher.hexdigest())
            if digest and found != digest:
                raise DigestMismatch(f"the bytes have digest {found}, expected {digest}")
            os.replace(temporary, self.path(found))
        finally:
            durable.remove(temporary)
        durable.sync_directory(os.path.dirname(self.path(found)))
        return found

    def delete(self, digest: Digest) -> bool:
        """True when it was there."""
        return durable.remove(self.path(digest))

    def digests(self) -> Iterator[Digest]:
        for algorithm in _ALGORITHMS:
            for name in os.listdir(os.path.join(self.root, "blobs", algorithm)):
                yield Digest(algorithm, name)

    def free_bytes(self) -> int:
        """What an ordinary writer may still use of the file system."""
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize


def _unknown(digest: Digest) -> BlobUnknown:
    return BlobUnknown(f"blob {digest} is not on this node: pull the image again", digest=str(digest))
