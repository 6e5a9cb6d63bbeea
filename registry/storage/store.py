"""What a blob store must do. One suite holds every driver to it: tests/contract/test_blob_stores.py.

All calls block and belong into a thread. A blob becomes visible whole and durable or not at all. The store knows no repositories
and no references: rows decide which blobs exist, the store only keeps bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from agent.protocol.errors import InvalidInput, Unavailable, WharfError
from agent.protocol.oci import Digest


class DigestMismatch(InvalidInput):
    """The bytes do not hash to the digest that the client named."""

    code = "digest_mismatch"


class UploadBusy(WharfError):
    """Another request is writing this upload right now."""

    code = "upload_busy"
    status = 416
    retry = True


class StoreFull(Unavailable):
    """No space, or over the file system's quota."""

    code = "store_full"


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """Bytes that hash to `digest`. `session`: the upload that may hold these very bytes and ends with this, "" for none."""

    digest: Digest
    data: bytes
    session: str = ""


class BlobFile(Protocol):
    """An open blob. The bytes stay readable after the blob was deleted from the store."""

    size: int

    def fileno(self) -> int:
        """A descriptor that sendfile accepts; its offset is not ours to rely on."""

    def read_at(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


class UploadWriter(Protocol):
    """The single writer of one upload. `offset` is the number of bytes stored so far."""

    offset: int

    def write(self, data: bytes) -> None:
        """Append and hash; raises StoreFull."""

    def state(self) -> bytes | None:
        """Saved hash state for `BlobStore.writer`, see registry.storage.hashing."""

    def hexdigest(self, algorithm: str) -> str:
        """The digest of all bytes stored; reads them again when another algorithm was running."""

    def close(self) -> None: ...


class BlobStore(Protocol):
    name: str

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        """Open upload `session` for appending at `offset`, creating it when new.

        Bytes beyond `offset` (written, but never acknowledged) are cut off. When fewer are there than `offset` (power loss) the
        writer's offset is what is there. Raises UploadBusy while another writer has it.
        """

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        """Make the upload the blob `digest`, durably; closes the writer. Raises DigestMismatch and drops the upload."""

    def put(self, digest: Digest, data: bytes) -> None:
        """Store a small blob in one call, durably. Raises DigestMismatch."""

    def discard(self, session: str) -> None:
        """Drop an upload; absent is fine."""

    def open(self, digest: Digest) -> BlobFile | None: ...

    def size(self, digest: Digest) -> int | None: ...

    def trash(self, digest: Digest) -> None:
        """Take a blob out of sight; it can be restored until the trash is emptied. Absent is fine."""

    def restore(self, digest: Digest) -> bool:
        """Undo `trash`; False when neither the blob nor its trash is there."""

    def empty_trash(self, older_than: float) -> int:
        """Delete for good what was trashed more than `older_than` seconds ago; returns how many."""

    def uploads(self) -> Iterator[tuple[str, float]]:
        """(session, seconds since its last write) of every upload."""

    def blobs(self) -> Iterator[tuple[Digest, float]]:
        """(digest, seconds since it was stored) of every visible blob."""
