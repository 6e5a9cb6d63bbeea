"""Uploads of small blobs, several in one transaction: registry.actions.uploads in fewer statements.

Each step is decided by one conditional statement on the session's row. Where the condition does not hold (somebody else was
there, the session grew, the repository is new or has a quota) the step returns None with nothing written, and the caller goes
the ordinary way, which finds out why and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import connection, transaction
from django.utils import timezone

from agent.protocol.errors import WharfError
from controlplane.api.ids import new_id
from registry.actions import quotas
from registry.actions.blobs import revive_or_create
from registry.actions.inserting import Insert
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

_BLOBS = f"SELECT id, digest, state FROM {Blob._meta.db_table} WHERE digest IN"  # noqa: S608  # table names
_NEW_UPLOADS = Insert(Upload)
_NEW_BLOBS = Insert(Blob, "ON CONFLICT DO NOTHING")  # waits for a rival's commit and costs no savepoint
_LINKS = Insert(RepositoryBlob, "ON CONFLICT (repository_id, blob_id) DO UPDATE SET touched_at = EXCLUDED.touched_at")


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


def take(steps: Sequence[Step], store: Any, version: int) -> list[Any]:
    """All steps in one transaction; `store` is a BlobStore and a GroupStore, `version` the policy version they were judged under.

    For each step: Opened, True, or None (go the ordinary way). What a failure leaves behind is what a crash may leave: a blob's
    file without a row.
    """
    now = timezone.now()
    with transaction.atomic():
        closing = []
        with connection.cursor() as cursor:
            results: dict[int, Any] = dict(_open(cursor, _of(steps, Open), version, now))
            for number, append in _of(steps, Append):
                values = [len(append.data), _time(now + _ttl()), append.session, append.epoch, append.name]
                results[number] = _changed(cursor, _APPEND, values)
            for number, close in _of(steps, Close):
                values = [close.blob.session, close.written, close.epoch, close.repository_id]
                if not _free(close.repository_id):
                    continue
                if not close.blob.session or _changed(cursor, _END, values):
                    closing.append((number, close))
            if closing:
                store.put_all([close.blob for _, close in closing])
                results.update(_link(cursor, closing, store, now))
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


class _Names:
    """Ids of repositories by name. A repository comes, goes and is renamed by an event that moves the policy version."""

    def __init__(self) -> None:
        self._version = -1
        self._ids: dict[str, str] = {}

    def of(self, names: set[str], version: int) -> dict[str, str]:
        """Those of `names` that there are."""
        if version != self._version or len(self._ids) > 10_000:
            self._version, self._ids = version, {}
        if missing := names - self._ids.keys():
            self._ids.update(Repository.objects.filter(full_name__in=missing, mirrored_from="").values_list("full_name", "id"))
        return {name: self._ids[name] for name in names & self._ids.keys()}


_local = threading.local()  # a thread's own, so that one thread's version never vouches for another's ids


def _ids(names: set[str], version: int) -> dict[str, str]:
    if not hasattr(_local, "names"):
        _local.names = _Names()
    known: _Names = _local.names
    return known.of(names, version)


def _open(cursor: Any, steps: list[tuple[int, Open]], version: int, now: datetime) -> dict[int, Opened]:
    if not steps:
        return {}
    found = _ids({step.name for _, step in steps}, version)
    made = {number: Opened(new_id(), found[step.name]) for number, step in steps if _free(found.get(step.name))}
    times = {"expires_at": _time(now + _ttl()), "created_at": _time(now)}
    rows = [
        {
            "id": made[number].session,
            "repository_id": made[number].repository_id,
            "algorithm": step.algorithm,
            "started_by": step.pusher,
            **times,
        }
        for number, step in steps
        if number in made
    ]
    _NEW_UPLOADS.execute(cursor, rows)
    return made


def _free(repository_id: str | None) -> bool:
    """Is it a repository whose pushes nobody has to count?"""
    return repository_id is not None and quotas.limited(repository_id) is None


def _link(cursor: Any, steps: list[tuple[int, Close]], store: BlobStore, now: datetime) -> dict[int, bool]:
    """As revive_or_create and link_live of registry.actions.blobs: all blobs are locked before the first link."""
    sizes = {str(step.blob.digest): len(step.blob.data) for _, step in steps}
    moment = _time(now)
    # Sorted, so that two groups that create the same blobs wait for each other in one order.
    new = [
        {"digest": digest, "size": sizes[digest], "last_touched": moment, "created_at": moment, "verified_at": moment}
        for digest in sorted(sizes)
    ]
    _NEW_BLOBS.execute(cursor, new)
    lock = "FOR NO KEY UPDATE" if connection.features.has_select_for_no_key_update else ""
    cursor.execute(f"{_BLOBS} ({', '.join(['%s'] * len(sizes))}) ORDER BY id {lock}", list(sizes))
    live = {digest: key for key, digest, state in cursor.fetchall() if state == Blob.State.LIVE}
    links: dict[tuple[str, int], dict[str, Any]] = {}
    for _, step in steps:
        digest = step.blob.digest
        key = live.get(str(digest))
        # The collector may have taken the file, or the row, between our rename and our lock.
        if key is None or store.size(digest) is None:
            key = live[str(digest)] = revive_or_create(store, digest, sizes[str(digest)]).pk
        row = {"repository_id": step.repository_id, "blob_id": key, "pushed_by": step.pusher, "touched_at": moment}
        links[step.repository_id, key] = row
    _LINKS.execute(cursor, [links[key] for key in sorted(links)])
    return {number: True for number, _ in steps}
