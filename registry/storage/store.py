"""What a blob store must do. One suite holds every driver to it: tests/contract/test_blob_stores.py.

All calls block and belong into a thread. A blob becomes visible whole and durable or not at all. The store knows no repositories
and no references: rows decide which blobs exist, the store only keeps bytes.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.protocol.errors import InvalidInput, NotFound, Unavailable, WharfError
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


class StoreAway(Unavailable):
    """The store does not answer, or failed: the same request may succeed in a moment."""

    code = "store_away"
    retry_after = 5.0


class StoreMisconfigured(WharfError):
    """An administrator must change something before it can succeed."""

    code = "store_misconfigured"
    status = 503


class UploadLost(NotFound):
    """The stored bytes of an upload are gone: only a new one helps."""

    code = "blob_upload_unknown"


_FULL = (errno.ENOSPC, errno.EDQUOT)
_SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")


@contextmanager
def full_explained() -> Iterator[None]:
    """A full disk as StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreFull("the registry's disk is full; ask an administrator to run garbage collection or add space") from error


def check_session(session: str) -> str:
    """Sessions become paths and keys. Raises ValueError."""
    if not _SESSION.fullmatch(session):
        raise ValueError(f"not a session id: {session[:80]!r}")
    return session


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as the store's listing shows it; `age` in seconds since it was stored."""

    digest: Digest
    age: float
    size: int


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """Bytes that hash to `digest`. `session`: the upload that may hold these very bytes and ends with this, "" for none."""

    digest: Digest
    data: bytes
    session: str = ""


class BlobFile(Protocol):
    """An open blob. Who began to read it can read on after it was deleted from the store."""

    size: int

    def fileno(self) -> int | None:
        """A descriptor that sendfile accepts, its offset is not ours to rely on; None where the bytes are in no file."""

    def read_at(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


class UploadWriter(Protocol):
    """The single writer of one upload."""

    @property
    def offset(self) -> int:
        """The number of bytes stored so far."""

    def write(self, data: bytes) -> None:
        """Append and hash. Raises StoreFull, StoreAway: then `offset` may be less than before, and says what stands."""

    def state(self) -> bytes | None:
        """Saved hash state for `BlobStore.writer`, see registry.storage.hashing. May wait for the store."""

    def close(self) -> None:
        """Release the upload. Only then does what state() named stand in the store: note the state after it."""


class BlobStore(Protocol):
    """`redirects`: may `location` send clients elsewhere? Asked before it, as most stores never do."""

    name: str
    redirects: bool

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        """Open upload `session` for appending at `offset`, creating it when new.

        Bytes beyond `offset` (written, but never acknowledged) are cut off. When fewer are there than `offset` (power loss) the
        writer's offset is what is there.

        The upload's row decides who may write. A driver adds what it can: it raises UploadBusy while another writer has it, or
        sees to it that bytes of two writers never become one blob.
        """

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        """Make the upload the blob `digest`, durably; closes the writer. Raises DigestMismatch and drops the upload.

        After any other error the upload is as it was: close the writer, note its state, and try again later.
        """

    def put(self, digest: Digest, data: bytes) -> None:
        """Store a small blob in one call, durably. Raises DigestMismatch."""

    def discard(self, session: str) -> None:
        """Drop an upload; absent is fine."""

    def holds(self, session: str) -> bool:
        """Is there anything of this upload?"""

    def unfinished(self, session: str) -> BlobFile | None:
        """What is there of an upload, for one who reads along: `read_at` also gives what comes later, b"" where nothing is yet.

        It goes on reading after a commit. None where there is no such upload, or where the store shows no unfinished ones. Nobody
        has checked these bytes.
        """

    def open(self, digest: Digest) -> BlobFile | None: ...

    def location(self, digest: Digest) -> str | None:
        """An address from which a client may read the blob itself for some minutes; None where it must come through us."""

    def size(self, digest: Digest) -> int | None: ...

    def trash(self, digest: Digest) -> None:
        """Take a blob out of sight; it can be restored until the trash is emptied. Absent is fine."""

    def trash_all(self, digests: Sequence[Digest]) -> None:
        """`trash` for many, in as few round trips as the store allows."""

    def restore(self, digest: Digest) -> bool:
        """Undo `trash`; False when neither the blob nor its trash is there."""

    def quarantine(self, digest: Digest) -> None:
        """Take bytes that are not what their name says out of sight; `restore` does not bring them back. Absent is fine."""

    def empty_trash(self, older_than: float) -> int:
        """Delete for good what was trashed more than `older_than` seconds ago; returns how many."""

    def uploads(self) -> Iterator[tuple[str, float]]:
        """(session, seconds since its last write) of every upload."""

    def blobs(self, beginning: str = "") -> Iterator[StoredBlob]:
        """Every visible blob, or those whose digest begins with `beginning`: an algorithm and two digits, "sha256:0f"."""
