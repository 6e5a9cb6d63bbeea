"""Leases: what running containers need is kept, whatever users delete."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agent.protocol.oci import parse_manifest
from registry.models import Blob, Lease, Manifest


def lease(digest: str, holder: str, expires_at: datetime | None = None) -> int:
    """Keep the image `digest` with its children, config and layers for `holder` ("task/<id>"). Idempotent; returns digests held.

    A digest that no repository holds is leased as it stands: the lease is then only a name.
    """
    with transaction.atomic():
        wanted = _closure(digest)
        # Lock the blobs first, as every reference writer does (registry.models.blob).
        list(Blob.objects.select_for_update(no_key=True).filter(digest__in=wanted).order_by("id").values_list("id"))
        for item in sorted(wanted):
            Lease.objects.update_or_create(holder=holder, root=digest, digest=item, defaults={"expires_at": expires_at})
    return len(wanted)


def release(holder: str, digest: str = "") -> int:
    """End the holder's leases, or only those of one image; returns how many images were released."""
    rows = Lease.objects.filter(holder=holder)
    if digest:
        rows = rows.filter(root=digest)
    with transaction.atomic():
        images = rows.values("root").distinct().count()
        # Dropping a reference: the grace of what nobody else needs begins now.
        held = Blob.objects.filter(digest__in=list(rows.values_list("digest", flat=True)))
        locked = list(held.select_for_update(no_key=True).order_by("id").values_list("id", flat=True))
        Blob.objects.filter(pk__in=locked).update(last_touched=timezone.now(), ver=F("ver") + 1)
        rows.delete()
    return images


def _closure(digest: str) -> set[str]:
    found: set[str] = set()
    waiting = [digest]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        row = Manifest.objects.filter(digest=current).only("content", "media_type").first()
        if row is not None:
            document = parse_manifest(bytes(row.content), row.media_type)
            needs = [*document.layers, *document.manifests, *([document.config] if document.config else [])]
            waiting.extend(str(item.digest) for item in needs)
    return found
