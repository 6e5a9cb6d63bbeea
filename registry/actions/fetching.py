"""Blobs of other registries into our store: in constant memory, one fetch at a time for each blob of a repository, resumable.

The upload's row is the lock and the memory: its id follows from repository and digest, so that of all processes one writes (the
claim of registry.actions.uploads) and one that comes after a kill goes on where the other's last checkpoint was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Unavailable
from agent.protocol.oci import Digest
from controlplane.api.ids import LENGTH
from registry.actions import uploads
from registry.actions.uploads import Claim
from registry.errors import RangeInvalid, UploadUnknown
from registry.limits import limit
from registry.models import Repository, Upload
from registry.queries import content
from registry.remote.errors import RemoteBroken
from registry.storage import open_store
from registry.storage.store import DigestMismatch, UploadBusy, UploadLost, UploadWriter

CHECKPOINT = 64 << 20  # bytes after which the upload is closed, noted and opened again
BATCH = 1 << 20
POLL = 0.2  # seconds between looks at a fetch that another process makes

Source = Callable[[int], Iterator[bytes]]  # the bytes from an offset on
Wait = Callable[[float], None]


class FetchStalled(Unavailable):
    """Another process has been fetching this blob and gets nowhere."""

    code = "fetch_stalled"


def session_of(repository_id: str, digest: Digest) -> str:
    """The upload's id for this blob in this repository, in every process the same."""
    return hashlib.sha256(f"{repository_id}\n{digest}".encode()).hexdigest()[:LENGTH]


def fetch(
    repository: Repository,
    digest: Digest,
    size: int,
    source: Source,
    pusher: str,
    *,
    wait: Wait = time.sleep,
    told: Callable[[int], None] = lambda offset: None,
) -> bool:
    """Put the blob into the repository. False when another one did while we waited. `told` hears how far it is.

    Raises RemoteBroken when the bytes are not what their digest says, and what `source` and the store raise.
    """
    while True:
        if content.blob(repository.full_name, str(digest)) is not None:
            return False
        held = _claim(repository, digest)
        if held is not None:
            break
        wait(POLL)
    if content.blob(repository.full_name, str(digest)) is not None:  # its writer ended between our look and our claim
        uploads.forget(held.session)
        open_store().discard(held.session)
        return False
    _Fetch(held, digest, size, pusher, told).run(source)
    return True


def _claim(repository: Repository, digest: Digest) -> Claim | None:
    session = session_of(repository.pk, digest)
    with transaction.atomic():
        Upload.objects.get_or_create(
            pk=session,
            defaults={
                "repository": repository,
                "algorithm": digest.algorithm,
                "started_by": "fetch",
                "expires_at": timezone.now() + timedelta(seconds=limit("UPLOAD_TTL")),
            },
        )
    try:
        return uploads.claim(repository.full_name, session, None, digest.algorithm)
    except (RangeInvalid, UploadUnknown):
        return None  # somebody else writes, or has just ended


class _Fetch:
    """One claim. `writer` is the open one: checkpoints close it and open another."""

    def __init__(self, held: Claim, digest: Digest, size: int, pusher: str, told: Callable[[int], None]) -> None:
        self.held, self.digest, self.size, self.pusher, self.told = held, digest, size, pusher, told
        self.store = open_store()
        self.writer: UploadWriter | None = None
        self.renewed_at = time.monotonic()

    def run(self, source: Source) -> None:
        ended = False
        try:
            writer = self._open(self.held.offset, self.held.state)
            if writer.offset < self.size:
                self._copy(source(writer.offset))
            self._commit()
            ended = True
        except RemoteBroken:
            ended = True  # the upload is gone
            raise
        finally:
            if not ended:
                self._release()

    def _open(self, offset: int, state: bytes | None) -> UploadWriter:
        try:
            self.writer = self.store.writer(self.held.session, offset, self.held.algorithm, state)
        except UploadBusy as error:
            raise FetchStalled(f"{self.digest} is being fetched by a process that lost its claim; try again") from error
        except UploadLost as error:
            uploads.forget(self.held.session)
            raise FetchStalled(f"what was fetched of {self.digest} is gone; try again") from error
        return self.writer

    def _copy(self, source: Iterator[bytes]) -> None:
        checkpoint = self._offset() + CHECKPOINT
        for batch in _batches(source):
            if self._offset() + len(batch) > self.size:
                raise self._broken(f"has more than the {self.size} bytes that the manifest says")
            self._write(batch)
            self._renew()
            if self._offset() >= checkpoint:
                self._checkpoint()
                checkpoint = self._offset() + CHECKPOINT

    def _offset(self) -> int:
        return 0 if self.writer is None else self.writer.offset

    def _write(self, batch: bytes) -> None:
        assert self.writer is not None  # noqa: S101  # _open came first
        self.writer.write(batch)
        self.told(self.writer.offset)

    def _checkpoint(self) -> None:
        """Only what stands after a close stands for another process too."""
        offset, state = self._close()
        Upload.objects.filter(pk=self.held.session, epoch=self.held.epoch).update(offset=offset, state=state)
        self._open(offset, state)

    def _close(self) -> tuple[int, bytes | None]:
        """(offset, state) of what stands; before anything was opened, as the claim said."""
        if self.writer is None:
            return self.held.offset, self.held.state
        offset, state = self.writer.offset, self.writer.state()
        self.writer.close()
        self.writer = None
        return offset, state

    def _renew(self) -> None:
        if time.monotonic() - self.renewed_at < uploads.RENEW_SECONDS:
            return
        if not uploads.renew(self.held):
            raise FetchStalled(f"another process took over fetching {self.digest}; try again")
        self.renewed_at = time.monotonic()

    def _commit(self) -> None:
        if self._offset() != self.size:
            raise self._broken(f"has {self._offset()} bytes, the manifest says {self.size}")
        assert self.writer is not None  # noqa: S101  # _open came first
        try:
            self.store.commit(self.held.session, self.writer, self.digest)
        except DigestMismatch as error:
            uploads.forget(self.held.session)
            raise RemoteBroken(f"the bytes that came for {self.digest} do not hash to it; they were dropped") from error
        uploads.finish(self.store, self.held.repository_id, self.digest, self.size, self.pusher, self.held.session)

    def _broken(self, what: str) -> RemoteBroken:
        self._close()
        uploads.forget(self.held.session)
        self.store.discard(self.held.session)
        return RemoteBroken(f"the blob {self.digest} {what}; it was dropped")

    def _release(self) -> None:
        uploads.release(self.held, *self._close())


def _batches(source: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of BATCH bytes or more, the last one smaller."""
    pieces: list[bytes] = []
    waiting = 0
    for piece in source:
        pieces.append(piece)
        waiting += len(piece)
        if waiting >= BATCH:
            yield b"".join(pieces)
            pieces, waiting = [], 0
    if pieces:
        yield b"".join(pieces)
