"""Tags as lists show them."""

from __future__ import annotations

from typing import Any

from django.db.models import BigIntegerField, F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from registry.models import Manifest, ManifestChild, Repository, Tag


def listed(repository: Repository) -> QuerySet[Any]:
    """With `whole_size`: the bytes of the image, of an index those of all its images that are here."""
    named = ManifestChild.objects.filter(manifest=OuterRef(OuterRef("manifest_id"))).values("digest")
    children = Manifest.objects.filter(repository=OuterRef("repository_id"), digest__in=named).order_by()
    size = children.values("repository").annotate(total=Sum("total_size")).values("total")
    rows = Tag.objects.filter(repository=repository).select_related("manifest").defer("manifest__content")
    return rows.annotate(whole_size=F("manifest__total_size") + Coalesce(Subquery(size, output_field=BigIntegerField()), 0))


def size_of_images(row: Manifest) -> int:
    """Of an index: the bytes of its images that are here; 0 of anything else."""
    named = ManifestChild.objects.filter(manifest=row).values("digest")
    rows = Manifest.objects.filter(repository_id=row.repository_id, digest__in=named)
    return rows.aggregate(total=Sum("total_size"))["total"] or 0
