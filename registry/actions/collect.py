"""Online garbage collection: never read-only, never a lock over more than one batch, never a lost blob.

Two steps of forgetting, each with its own grace:

1. a repository's link to a blob goes when no manifest of the repository needs the blob and no pusher touched the link;
2. a blob without links and leases is claimed (LIVE -> DELETING), and in another transaction its file goes to the trash and its
   row goes. Between the two an upload of the same bytes makes it LIVE again.

Each decision is made under the row's lock by statements that start after the lock was taken (registry.models.blob says why).
A crash leaves DELETING rows, which the next run finishes, or a trashed file, which the trash window removes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from agent.protocol.oci import Digest
from registry.actions import quotas, trash, uploads
from registry.limits import limit
from registry.models import Blob, Lease, ManifestBlob, RepositoryBlob
from registry.storage.store import BlobStore

BATCH = 200
Report = Callable[[int, str], None]  # blobs removed so far, what is happening


@dataclass
class Collected:
    """What a run did, or in a dry run what it would do."""

    links: int = 0
    blobs: int = 0
    size: int = 0
    uploads: int = 0
    orphans: int = 0
    trashed_files_deleted: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def candidates(grace: float) -> Collected:
    """The dry run: reads only, and says what a run would do. A blob that loses its last link in it stays for another grace."""
    cutoff = timezone.now() - timedelta(seconds=grace)
    links = _unused_links(cutoff)
    staying = RepositoryBlob.objects.filter(blob=OuterRef("pk"))
    if grace <= 0:
        staying = staying.exclude(pk__in=links.values("pk"))
    blobs = Blob.objects.filter(last_touched__lt=cutoff).filter(~Exists(staying), ~Exists(_leases(timezone.now())))
    sizes = list(blobs.values_list("size", flat=True))
    return Collected(links=links.count(), blobs=len(sizes), size=sum(sizes))


def collect(
    store: BlobStore, grace: float | None = None, trash_window: float | None = None, report: Report | None = None
) -> Collected:
    """One whole run. `grace` and `trash_window` in seconds, by default the configured ones."""
    grace = limit("GC_GRACE") if grace is None else grace
    window = limit("TRASH_WINDOW") if trash_window is None else trash_window
    tell = report or (lambda count, text: None)
    done = Collected()
    trash.forget(trash.window_start())
    done.uploads = uploads.sweep(store)
    tell(0, "dropping unused links")
    while count := unlink_batch(grace):
        done.links += count
        tell(done.blobs, f"{done.links} unused links dropped")
    while claim_batch(grace):
        for size in iter(lambda: delete_batch(store), None):
            done.blobs += len(size)
            done.size += sum(size)
            tell(done.blobs, f"{done.blobs} blobs collected")
    for size in iter(lambda: delete_batch(store), None):  # claimed by a run that died
        done.blobs += len(size)
        done.size += sum(size)
    done.orphans = trash_orphans(store)
    done.trashed_files_deleted = store.empty_trash(window)
    return done


def _unused_links(cutoff: datetime) -> QuerySet[RepositoryBlob]:
    needed = ManifestBlob.objects.filter(repository=OuterRef("repository"), blob=OuterRef("blob"))
    return RepositoryBlob.objects.filter(touched_at__lt=cutoff).filter(~Exists(needed))


def _leases(now: datetime) -> QuerySet[Lease]:
    return Lease.objects.filter(Lease.valid(now), digest=OuterRef("digest"))


def unlink_batch(grace: float) -> int:
    """Drop up to BATCH unused links; returns how many."""
    cutoff = timezone.now() - timedelta(seconds=grace)
    picked = list(_unused_links(cutoff).order_by("id").values_list("id", flat=True)[:BATCH])
    if not picked:
        return 0
    with transaction.atomic():
        blobs = Blob.objects.filter(links__in=picked)
        held = list(_lock(Blob.objects.filter(pk__in=blobs.values("pk"))).values_list("id", flat=True))
        locked = list(_lock(RepositoryBlob.objects.filter(pk__in=picked, blob_id__in=held)).values_list("id", flat=True))
        unused = _unused_links(cutoff).filter(pk__in=locked)
        rows = list(unused.values_list("id", "blob_id", "repository__namespace_id"))
        # A dropped reference touches the blob: its own grace begins now, unless it is zero.
        Blob.objects.filter(pk__in=[blob for _, blob, _ in rows]).update(last_touched=_begin(grace), ver=F("ver") + 1)
        RepositoryBlob.objects.filter(pk__in=[link for link, _, _ in rows]).delete()
        quotas.unlinked([(namespace, blob) for _, blob, namespace in rows])
    return len(rows)


def _begin(grace: float) -> datetime:
    return timezone.now() if grace > 0 else timezone.now() - timedelta(seconds=1)


def claim_batch(grace: float) -> int:
    """Turn up to BATCH unreferenced live blobs into DELETING ones; returns how many."""
    now = timezone.now()
    cutoff = now - timedelta(seconds=grace)

    def unreferenced() -> QuerySet[Blob]:
        links = RepositoryBlob.objects.filter(blob=OuterRef("pk"))
        rows = Blob.objects.filter(state=Blob.State.LIVE, last_touched__lt=cutoff)
        return rows.filter(~Exists(links), ~Exists(_leases(now)))

    picked = list(unreferenced().order_by("id").values_list("id", flat=True)[:BATCH])
    if not picked:
        return 0
    with transaction.atomic():
        locked = list(_lock(Blob.objects.filter(pk__in=picked)).values_list("id", flat=True))
        return (
            Blob.objects.filter(pk__in=list(unreferenced().filter(pk__in=locked).values_list("id", flat=True)))
            .filter(state=Blob.State.LIVE)
            .update(state=Blob.State.DELETING, ver=F("ver") + 1)
        )


def delete_batch(store: BlobStore) -> list[int] | None:
    """Trash the files of up to BATCH claimed blobs and drop their rows; returns their sizes, None when there are no more."""
    with transaction.atomic():
        rows = list(_lock(Blob.objects.filter(state=Blob.State.DELETING))[:BATCH])
        if not rows:
            return None
        # The rename happens under the lock: an uploader of the same bytes waits for it, finds no row and restores the file.
        for row in rows:
            store.trash(Digest.parse(row.digest))
        Blob.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return [row.size for row in rows]


def trash_orphans(store: BlobStore) -> int:
    """Files without a row, older than the upload TTL: left by a crash between rename and commit."""
    count = 0
    old = [digest for digest, age in store.blobs() if age > limit("UPLOAD_TTL")]
    for start in range(0, len(old), BATCH):
        part = {str(digest): digest for digest in old[start : start + BATCH]}
        known = set(Blob.objects.filter(digest__in=part).values_list("digest", flat=True))
        for text, digest in part.items():
            if text not in known:
                store.trash(digest)
                count += 1
    return count


def _lock(rows: QuerySet) -> QuerySet:  # type: ignore[type-arg]  # of whichever model, unchanged
    """Lock in the order of ids. Rows that a pusher holds are left for the next run."""
    skip = connection.features.has_select_for_update_skip_locked
    return rows.order_by("id").select_for_update(skip_locked=skip, no_key=True)
