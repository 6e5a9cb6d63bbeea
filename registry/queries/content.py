"""Reads of the data path: one statement each, no joins beyond what the answer needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.functions import Collate
from django.utils import timezone

from registry.limits import limit
from registry.models import Manifest, Repository, Tag, Upload
from registry.queries import statements

ModelT = TypeVar("ModelT", bound=Model)


@dataclass(frozen=True, slots=True)
class BlobRow:
    """`touched_at`: when a pusher last touched its link."""

    link_id: int
    digest: str
    size: int
    touched_at: datetime

    @property
    def stale(self) -> bool:
        """Must a pusher who relies on it touch it?"""
        return self.touched_at < stale_before()


@dataclass(frozen=True, slots=True)
class ManifestRow:
    digest: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class UploadRow:
    id: str
    offset: int
    algorithm: str


def touch_seconds() -> float:
    """A touch younger than this protects long enough and is not written again."""
    return limit("GC_GRACE") / 4


def stale_before() -> datetime:
    return timezone.now() - timedelta(seconds=touch_seconds())


def blob(full_name: str, digest: str) -> BlobRow | None:
    """The blob as this repository holds it; None also while the collector has claimed it."""
    row = statements.blob(full_name, digest)
    return None if row is None else BlobRow(row[0], digest, row[1], row[2])


def manifest(full_name: str, target: str) -> ManifestRow | None:
    """By digest or tag."""
    row = statements.manifest(full_name, target)
    return None if row is None else ManifestRow(*row)


def upload(full_name: str, session: str) -> UploadRow | None:
    row = Upload.objects.filter(pk=session, repository__full_name=full_name).values_list("id", "offset", "algorithm").first()
    return None if row is None else UploadRow(*row)


def exists(full_name: str) -> bool:
    return Repository.objects.filter(full_name=full_name).exists()


def tag_names(full_name: str, after: str, limit: int | None) -> list[str]:
    """Tags after `after` (exclusive; "" = from the start), in ASCII order."""
    rows = ascii_order(Tag.objects.filter(repository__full_name=full_name), "name", after)
    names = rows.values_list("name", flat=True)
    return list(names if limit is None else names[:limit])


def ascii_order(rows: QuerySet[ModelT], column: str, after: str) -> QuerySet[ModelT]:
    """`rows` sorted by bytes, beyond `after`. PostgreSQL's default collation sorts by language, which no client expects."""
    collation = "C" if connection.vendor == "postgresql" else "BINARY"
    sorted_rows: Any = rows.alias(ascii=Collate(column, collation)).order_by("ascii")  # the stubs lose the model in alias()
    found: QuerySet[ModelT] = sorted_rows.filter(ascii__gt=after) if after else sorted_rows
    return found


def referrers(full_name: str, subject: str, artifact_type: str, after: str, limit: int) -> list[dict[str, Any]]:
    """Descriptors of the manifests whose subject is `subject`, in the order of their digests."""
    rows = Manifest.objects.filter(repository__full_name=full_name, subject=subject, digest__gt=after).order_by("digest")
    if artifact_type:
        rows = rows.filter(artifact_type=artifact_type)
    return [_descriptor(*row) for row in rows.values_list("media_type", "digest", "size", "artifact_type", "annotations")[:limit]]


def _descriptor(media_type: str, digest: str, size: int, artifact_type: str, annotations: dict[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        result["artifactType"] = artifact_type
    if annotations:
        result["annotations"] = annotations
    return result
