"""The three statements of the hot path in SQL: compiling the same ORM query costs four times what the database takes for it.

Constant text, parameters only; the tables' names come from the models.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connection

from controlplane.events.models import Event
from registry.models import Blob, Manifest, Repository, RepositoryBlob, Tag

_EVENTS = f"SELECT id, kind FROM {Event._meta.db_table} WHERE id > %s ORDER BY id"  # noqa: S608  # table names, see above
_BLOB = f"""
    SELECT link.id, blob.size, link.touched_at
    FROM {Repository._meta.db_table} repository
    JOIN {RepositoryBlob._meta.db_table} link ON link.repository_id = repository.id
    JOIN {Blob._meta.db_table} blob ON blob.id = link.blob_id
    WHERE repository.full_name = %s AND blob.digest = %s AND blob.state = {int(Blob.State.LIVE)}
"""  # noqa: S608  # table names, see above
_BY_DIGEST = f"""
    SELECT manifest.digest, manifest.media_type, manifest.content
    FROM {Repository._meta.db_table} repository
    JOIN {Manifest._meta.db_table} manifest ON manifest.repository_id = repository.id
    WHERE repository.full_name = %s AND manifest.digest = %s
"""  # noqa: S608  # table names, see above
_BY_TAG = f"""
    SELECT manifest.digest, manifest.media_type, manifest.content
    FROM {Repository._meta.db_table} repository
    JOIN {Tag._meta.db_table} tag ON tag.repository_id = repository.id
    JOIN {Manifest._meta.db_table} manifest ON manifest.id = tag.manifest_id
    WHERE repository.full_name = %s AND tag.name = %s
"""  # noqa: S608  # table names, see above


def events_after(number: int) -> list[tuple[int, str]]:
    """(id, kind) of the events after `number`, in order."""
    with connection.cursor() as cursor:
        cursor.execute(_EVENTS, [number])
        return list(cursor.fetchall())


def blob(full_name: str, digest: str) -> tuple[int, int, datetime] | None:
    """(id of the link, size, when it was last touched)."""
    row = _one(_BLOB, [full_name, digest])
    return None if row is None else (row[0], row[1], _moment(row[2]))


def manifest(full_name: str, target: str) -> tuple[str, str, bytes] | None:
    """(digest, media type, content) by digest or tag."""
    row = _one(_BY_DIGEST if ":" in target else _BY_TAG, [full_name, target])
    return None if row is None else (row[0], row[1], bytes(row[2]))


def _moment(value: datetime) -> datetime:
    # SQLite knows no time zones: what it keeps is UTC
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _one(statement: str, parameters: list[Any]) -> tuple[Any, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row
