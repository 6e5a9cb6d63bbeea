"""Leases: what running containers need is kept, whatever users delete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from registry.errors import ManifestUnknown
from registry.models import Blob, Lease, Manifest, ManifestBlob, ManifestChild, Repository


def lease(digest: str, holder: str, expires_at: datetime | None = None, *, repository: str = "") -> int:
    """Keep the image `digest` with its children, config and layers for `holder` ("service/<id>"); returns how many digests.

    Its bytes are kept wherever they are; its manifests, against deletes, in `repository`, or in all when that is "".
    Idempotent. A digest that no repository holds is leased as it stands: the lease is then only a name.
    """
    with transaction.atomic():
        wanted = _closure(digest)
        # Lock the blobs first, as every reference writer does (registry.models.blob).
        list(Blob.objects.select_for_update(no_key=True).filter(digest__in=wanted).order_by("id").values_list("id"))
        Lease.objects.bulk_create(
            [
                Lease(holder=holder, root=digest, digest=item, expires_at=expires_at, repository=repository)
                for item in sorted(wanted)
            ],
            update_conflicts=True,
            unique_fields=["holder", "root", "digest"],
            update_fields=["expires_at", "repository"],
        )
    return len(wanted)


def hold(repository: str, digest: str, holder: str, expires_at: datetime | None = None) -> None:
    """Lease what `repository` has now. Raises ManifestUnknown when a delete was faster; a later one finds the lease.

    Within a transaction of the caller, before its own locks: the locks here last until its end.
    """
    lease(digest, holder, expires_at, repository=repository)
    # An index has no blobs whose locks would keep a delete out, and who deletes a repository locks its row alone.
    rows = Manifest.objects.select_for_update(of=("self",), no_key=True)
    there = rows.filter(repository__full_name=repository, digest=digest).order_by("id").values_list("id").first()
    standing = Repository.objects.select_for_update(of=("self",), no_key=True).filter(full_name=repository)
    if there is None or standing.values_list("pk").first() is None:
        raise ManifestUnknown(
            f"{digest} was deleted from {repository} just now: push the image again, or name another one", digest=digest
        )


def release(holder: str, digest: str = "", *, unless: Callable[[], bool] | None = None) -> int:
    """End the holder's leases, or only those of one image; returns how many images were released.

    `unless` is asked under the locks: True keeps everything.
    """
    rows = Lease.objects.filter(holder=holder)
    if digest:
        rows = rows.filter(root=digest)
    with transaction.atomic():
        images = rows.values("root").distinct().count()
        # Dropping a reference: the grace of what nobody else needs begins now.
        held = Blob.objects.filter(digest__in=list(rows.values_list("digest", flat=True)))
        locked = list(held.select_for_update(no_key=True).order_by("id").values_list("id", flat=True))
        # Who leases an image without blobs meets us at these rows.
        list(rows.select_for_update().order_by("root", "digest").values_list("id"))
        if unless is not None and unless():
            return 0
        Blob.objects.filter(pk__in=locked).update(last_touched=timezone.now(), ver=F("ver") + 1)
        rows.delete()
    return images


def _closure(digest: str) -> set[str]:
    found: set[str] = set()
    waiting = {digest}
    while waiting:
        found |= waiting
        children = ManifestChild.objects.filter(manifest__digest__in=waiting)
        waiting = set(children.values_list("digest", flat=True)) - found
    needed = ManifestBlob.objects.filter(manifest__digest__in=found)
    return found | set(needed.values_list("blob__digest", flat=True))
