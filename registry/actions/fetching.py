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
    _Fetch(repository, digest, size, pusher, told).run(held, source)
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
    def __init__(self, repository: Repository, digest: Digest, size: int, pusher: str, told: Callable[[int], None]) -> None:
        self.repository, self.digest, self.size, self.pusher, self.told = repository, digest, size, pusher, told
        self.store = open_store()
        self.noted_at = time.monotonic()

    def run(self, held: Claim, source: Source) -> None:
        writer: UploadWriter | None = None
        committed = False
        try:
            writer = self._open(held, held.offset, held.state)
            writer = self._copy(held, writer, source)
            self._commit(held, writer)
            committed = True
        finally:
            if not committed:
                self._release(held, writer)

    def _open(self, held: Claim, offset: int, state: bytes | None) -> UploadWriter:
        try:
            return self.store.writer(held.session, offset, held.algorithm, state)
        except UploadBusy as error:
            raise FetchStalled(f"{self.digest} is being fetched by a process that lost its claim; try again") from error
        except UploadLost as error:
            uploads.forget(held.session)
            raise FetchStalled(f"what was fetched of {self.digest} is gone; try again") from error

    def _copy(self, held: Claim, writer: UploadWriter, source: Source) -> UploadWriter:
        checkpoint, pieces, waiting = writer.offset + CHECKPOINT, [], 0
        for piece in source(writer.offset) if writer.offset < self.size else ():
            pieces.append(piece)
            waiting += len(piece)
            if writer.offset + waiting > self.size:
                raise self._broken(held, writer, f"has more than the {self.size} bytes that the manifest says")
            if waiting < BATCH:
                continue
            writer.write(b"".join(pieces))
            pieces, waiting = [], 0
            self.told(writer.offset)
            self._renew(held)
            if writer.offset >= checkpoint:
                writer, checkpoint = self._checkpoint(held, writer), writer.offset + CHECKPOINT
        if pieces:
            writer.write(b"".join(pieces))
            self.told(writer.offset)
        if writer.offset != self.size:
            raise self._broken(held, writer, f"has {writer.offset} bytes, the manifest says {self.size}")
        return writer

    def _checkpoint(self, held: Claim, writer: UploadWriter) -> UploadWriter:
        """Only what stands after a close stands for another process too."""
        offset, state = writer.offset, writer.state()
        writer.close()
        Upload.objects.filter(pk=held.session, epoch=held.epoch).update(offset=offset, state=state)
        return self._open(held, offset, state)

    def _renew(self, held: Claim) -> None:
        if time.monotonic() - self.noted_at < uploads.RENEW_SECONDS:
            return
        if not uploads.renew(held):
            raise FetchStalled(f"another process took over fetching {self.digest}; try again")
        self.noted_at = time.monotonic()

    def _commit(self, held: Claim, writer: UploadWriter) -> None:
        try:
            self.store.commit(held.session, writer, self.digest)
        except DigestMismatch as error:
            uploads.forget(held.session)
            raise RemoteBroken(f"the bytes that came for {self.digest} do not hash to it; they were dropped") from error
        uploads.finish(self.store, held.repository_id, self.digest, self.size, self.pusher, held.session)

    def _broken(self, held: Claim, writer: UploadWriter, what: str) -> RemoteBroken:
        writer.close()
        uploads.forget(held.session)
        self.store.discard(held.session)
        return RemoteBroken(f"the blob {self.digest} {what}; it was dropped")

    def _release(self, held: Claim, writer: UploadWriter | None) -> None:
        if writer is None:
            uploads.release(held, held.offset, held.state)
            return
        offset, state = writer.offset, writer.state()
        writer.close()
        uploads.release(held, offset, state)
