"""Uploads of small blobs, several in one transaction: registry.actions.uploads in fewer statements.

Each step is decided by one conditional statement on the session's row. Where the condition does not hold (somebody else was
there, the session grew, the repository is new) the step returns None with nothing written, and the caller goes the ordinary way,
which finds out why and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import connection, transaction
from django.utils import timezone

from agent.protocol.errors import WharfError
from controlplane.api.ids import new_id
from registry.actions.blobs import revive_or_create
from registry.limits import limit
from registry.models import Blob, Repository, RepositoryBlob, Upload
from registry.storage.store import BlobStore, SmallBlob

_UPLOAD = Upload._meta.db_table
_OF = f"repository_id = (SELECT id FROM {Repository._meta.db_table} WHERE full_name = %s)"  # noqa: S608  # table names
_APPEND = f"""
    UPDATE {_UPLOAD} SET "offset" = %s, state = NULL, epoch = epoch + 1, expires_at = %s
    WHERE id = %s AND "offset" = 0 AND epoch = %s AND busy_until IS NULL AND {_OF}
"""  # noqa: S608  # table names
_END = f"""
    DELETE FROM {_UPLOAD} WHERE id = %s AND "offset" = %s AND epoch = %s AND busy_until IS NULL AND repository_id = %s
"""  # noqa: S608  # table names


@dataclass(frozen=True, slots=True)
class Opened:
    session: str
    repository_id: str


@dataclass(frozen=True, slots=True)
class Open:
    """A new session in a repository that exists."""

    name: str
    algorithm: str
    pusher: str


@dataclass(frozen=True, slots=True)
class Append:
    """`data` becomes the whole of a session that is empty at `epoch`; the epoch then is one more."""

    name: str
    session: str
    algorithm: str
    epoch: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The bytes, which hash to their digest, become a blob of the repository.

    With a session its `written` bytes at `epoch` are the first of them, and it ends.
    """

    repository_id: str
    pusher: str
    blob: SmallBlob
    written: int = 0
    epoch: int = 0


Step = Open | Append | Close


class GroupStore(Protocol):
    """What a blob store needs besides to be worth this way."""

    def put_all(self, blobs: Sequence[SmallBlob]) -> None:
        """Store several small blobs, durably, for little more than the cost of one. Raises StoreFull: none of them counts then.

        Their sessions' files may be there afterwards, or not.
        """


def take(steps: Sequence[Step], store: Any) -> list[Any]:
    """All steps in one transaction; `store` is a BlobStore and a GroupStore.

    For each step: Opened, True, or None (go the ordinary way). What a failure leaves behind is what a crash may leave: a blob's
    file without a row.
    """
    now = timezone.now()
    with transaction.atomic():
        results: dict[int, Any] = dict(_open(_of(steps, Open), now))
        closing = []
        with connection.cursor() as cursor:
            for number, append in _of(steps, Append):
                values = [len(append.data), _time(now + _ttl()), append.session, append.epoch, append.name]
                results[number] = _changed(cursor, _APPEND, values)
            for number, close in _of(steps, Close):
                values = [close.blob.session, close.written, close.epoch, close.repository_id]
                if not close.blob.session or _changed(cursor, _END, values):
                    closing.append((number, close))
        if closing:
            store.put_all([close.blob for _, close in closing])
            results.update(_link(closing, store, now))
    for number, append in _of(steps, Append):
        if results[number]:
            results[number] = _write(append, store)
    return [results.get(number) for number in range(len(steps))]


def _write(step: Append, store: BlobStore) -> bool | WharfError:
    try:
        writer = store.writer(step.session, 0, step.algorithm, None)
        try:
            writer.write(step.data)
        finally:
            writer.close()
    except WharfError as error:
        return error
    return True


def _of(steps: Sequence[Step], kind: type[Any]) -> list[tuple[int, Any]]:
    return [(number, step) for number, step in enumerate(steps) if isinstance(step, kind)]


def _changed(cursor: Any, statement: str, values: list[Any]) -> bool | None:
    cursor.execute(statement, values)
    return True if cursor.rowcount == 1 else None


def _time(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)


def _ttl() -> timedelta:
    return timedelta(seconds=limit("UPLOAD_TTL"))


def _open(steps: list[tuple[int, Open]], now: datetime) -> dict[int, Opened]:
    if not steps:
        return {}
    names = {step.name for _, step in steps}
    found = dict(Repository.objects.filter(full_name__in=names).values_list("full_name", "id"))
    made = {number: Opened(new_id(), found[step.name]) for number, step in steps if step.name in found}
    rows = [
        Upload(
            id=made[number].session,
            repository_id=made[number].repository_id,
            algorithm=step.algorithm,
            started_by=step.pusher,
            expires_at=now + _ttl(),
        )
        for number, step in steps
        if number in made
    ]
    Upload.objects.bulk_create(rows)
    return made


def _link(steps: list[tuple[int, Close]], store: BlobStore, now: datetime) -> dict[int, bool]:
    """As revive_or_create and link_live of registry.actions.blobs: all blobs are locked before the first link."""
    sizes = {str(step.blob.digest): len(step.blob.data) for _, step in steps}
    # Sorted, so that two groups that create the same blobs wait for each other in one order.
    rows = [Blob(digest=digest, size=sizes[digest], last_touched=now, created_at=now) for digest in sorted(sizes)]
    Blob.objects.bulk_create(rows, ignore_conflicts=True)
    locked = Blob.objects.select_for_update(no_key=True).filter(digest__in=sizes).order_by("id")
    blobs = {blob.digest: blob for blob in locked}
    links: dict[tuple[str, int], RepositoryBlob] = {}
    for _, step in steps:
        digest = step.blob.digest
        blob = blobs.get(str(digest))
        # The collector may have taken the file, or the row, between our rename and our lock.
        if blob is None or blob.state != Blob.State.LIVE or store.size(digest) is None:
            blob = blobs[str(digest)] = revive_or_create(store, digest, sizes[str(digest)])
        links[step.repository_id, blob.pk] = RepositoryBlob(
            repository_id=step.repository_id, blob=blob, pushed_by=step.pusher, touched_at=now
        )
    RepositoryBlob.objects.bulk_create(
        [links[key] for key in sorted(links)],
        update_conflicts=True,
        unique_fields=["repository", "blob"],
        update_fields=["touched_at"],
    )
    return {number: True for number, _ in steps}
