"""Life of an upload: rows only. The bytes are moved by registry.v2 between these calls, outside of any transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from agent.protocol.oci import Digest
from controlplane.api.actor import Actor
from registry.actions import quotas
from registry.actions.blobs import link_live, revive_or_create
from registry.actions.repositories import ensure_repository
from registry.errors import QuotaExceeded, RangeInvalid, UploadUnknown
from registry.limits import limit
from registry.models import Blob, Upload
from registry.storage.store import BlobStore

LEASE_SECONDS = 20
RENEW_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one upload until it is released, as long as nobody takes it over."""

    session: str
    repository_id: str
    offset: int
    algorithm: str
    state: bytes | None
    epoch: int
    pusher: str
    reserved: int = -1  # bytes of a quota; -1 = there is none


def open_upload(actor: Actor, full_name: str, algorithm: str) -> Upload:
    """A new session, and the repository when it is missing. Raises RepositoryUnknown, QuotaExceeded."""
    repository = ensure_repository(actor, full_name)
    quotas.admit(repository.pk, 0)
    return Upload.objects.create(repository=repository, algorithm=algorithm, started_by=actor.name, expires_at=_expiry())


def claim(full_name: str, session: str, first: int | None, algorithm: str = "", length: int = 0) -> Claim:
    """Become the one writer of bytes from `first` on (None = wherever it ends); `length` of them are announced.

    `algorithm` replaces the session's while it is empty: clients often name it only at the end.
    Raises UploadUnknown, QuotaExceeded (the session has ended then), or RangeInvalid (416, `extra.offset`) for another place or
    while another request writes.
    """
    now = timezone.now()
    row = Upload.objects.filter(pk=session, repository__full_name=full_name).first()
    if row is None:
        raise UploadUnknown(
            f"there is no upload {session[:64]} in {full_name}: it ended, expired or was cancelled; start a new one"
        )
    if first is not None and first != row.offset:
        raise RangeInvalid(f"the upload ends at byte {row.offset}, the chunk begins at {first}", offset=row.offset)
    free = Q(busy_until__isnull=True) | Q(busy_until__lt=now)
    taken = Upload.objects.filter(free, pk=session, epoch=row.epoch).update(
        epoch=F("epoch") + 1, busy_until=now + timedelta(seconds=LEASE_SECONDS)
    )
    if not taken:
        raise RangeInvalid("another request is writing this upload", offset=row.offset)
    state = None if row.state is None else bytes(row.state)
    used = algorithm or row.algorithm if row.offset == 0 else row.algorithm
    try:
        reserved = quotas.reserve(row.pk, row.repository_id, row.offset + length)
    except QuotaExceeded:
        forget(row.pk)
        raise
    return Claim(row.pk, row.repository_id, row.offset, used, state, row.epoch + 1, row.started_by, reserved)


def reserve_whole(repository_id: str, size: int, pusher: str) -> str:
    """A session that only holds a reservation, for a blob that comes in one request; "" where there is no quota."""
    if quotas.limited(repository_id) is None:
        return ""
    row = Upload.objects.create(repository_id=repository_id, started_by=pusher, expires_at=_expiry())
    try:
        quotas.reserve(row.pk, repository_id, size)
    except QuotaExceeded:
        forget(row.pk)
        raise
    return row.pk


def reserve_more(held: Claim, offset: int) -> int:
    """The body that `held` writes grows to `offset` bytes without having said so; returns what is reserved then."""
    return quotas.reserve(held.session, held.repository_id, offset, offset + quotas.STEP)


def renew(held: Claim) -> bool:
    """False when somebody else has become the writer: stop."""
    until = timezone.now() + timedelta(seconds=LEASE_SECONDS)
    return Upload.objects.filter(pk=held.session, epoch=held.epoch).update(busy_until=until, expires_at=_expiry()) == 1


def release(held: Claim, offset: int, state: bytes | None) -> bool:
    """Save how far the bytes and their hash came, and let others write. False when the claim was lost.

    The epoch moves on here too: who read the row before this release must not become the writer at an offset that is past.
    """
    row = Upload.objects.filter(pk=held.session, epoch=held.epoch)
    return row.update(offset=offset, state=state, busy_until=None, epoch=F("epoch") + 1, expires_at=_expiry()) == 1


def finish(store: BlobStore, repository_id: str, digest: Digest, size: int, pusher: str, session: str = "") -> None:
    """The blob's file is durable: make it live, link it and end the session, in one transaction."""
    with transaction.atomic():
        blob = revive_or_create(store, digest, size)
        link_live(repository_id, blob, pusher, session)


def adopt(repository_id: str, digest: Digest, size: int, pusher: str, session: str = "") -> bool:
    """When these very bytes are live already: link them and end the session. False = store them first."""
    if not Blob.objects.filter(digest=str(digest), size=size, state=Blob.State.LIVE).exists():
        return False
    with transaction.atomic():
        blob = Blob.objects.select_for_update(no_key=True).filter(digest=str(digest), size=size, state=Blob.State.LIVE).first()
        if blob is None:
            return False
        link_live(repository_id, blob, pusher, session)
    return True


def cancel(full_name: str, session: str) -> None:
    """Forget the session. Its writer, if any, finds its claim gone. Raises UploadUnknown."""
    if not quotas.end_uploads(Upload.objects.filter(pk=session, repository__full_name=full_name)):
        raise UploadUnknown(f"there is no upload {session[:64]} in {full_name}")


def forget(session: str) -> None:
    """The store dropped the bytes: they did not match their digest, or did not fit."""
    quotas.end_uploads(Upload.objects.filter(pk=session))


def sweep(store: BlobStore) -> int:
    """End expired sessions, then drop files without a session that nobody wrote to within the TTL; returns how many files."""
    now = timezone.now()
    free = Q(busy_until__isnull=True) | Q(busy_until__lt=now)
    quotas.end_uploads(Upload.objects.filter(free, expires_at__lt=now), fresh=True)
    count = 0
    for session, age in list(store.uploads()):
        if age > limit("UPLOAD_TTL") and not Upload.objects.filter(pk=session).exists():
            store.discard(session)
            count += 1
    return count


def _expiry() -> datetime:
    return timezone.now() + timedelta(seconds=limit("UPLOAD_TTL"))
