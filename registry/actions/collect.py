"""Online garbage collection: never read-only, never a lock over more than one batch, never a lost blob.

Two steps of forgetting, each with its own grace:

1. a repository's link to a blob goes when no manifest of the repository needs the blob and no pusher touched the link;
2. a blob without links and leases is claimed (LIVE -> DELETING), and in another transaction its file goes to the trash and its
   row goes. Between the two an upload of the same bytes makes it LIVE again.

Each decision is made under the row's lock by statements that start after the lock was taken (registry.models.blob says why).
A crash leaves DELETING rows, which the next run finishes, or a trashed file, which the trash window removes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from agent.protocol.oci import Digest
from registry.actions import quotas, trash, uploads
from registry.limits import limit
from registry.models import Blob, Lease, ManifestBlob, RepositoryBlob
from registry.storage.store import BlobStore

BATCH = 200
Report = Callable[[int, int, str], None]  # blobs removed so far, of how many, what is happening


@dataclass
class Collected:
    """What a run did, or in a dry run what it would do. `stopped`: its time was over before its work."""

    links: int = 0
    blobs: int = 0
    size: int = 0
    uploads: int = 0
    orphans: int = 0
    trashed_files_deleted: int = 0
    stopped: bool = False

    def as_dict(self) -> dict[str, int | bool]:
        return asdict(self)


def candidates(grace: float) -> Collected:
    """The dry run: reads only, and says what a run would do. A blob that loses its last link in it stays for another grace."""
    now = timezone.now()
    cutoff = now - timedelta(seconds=grace)
    links = _unused_links(cutoff)
    blobs = _collectable(cutoff, now, going=links if grace <= 0 else None)
    found = blobs.aggregate(size=Sum("size"))
    return Collected(links=links.count(), blobs=blobs.count(), size=found["size"] or 0)


def collect(
    store: BlobStore,
    grace: float | None = None,
    trash_window: float | None = None,
    report: Report | None = None,
    time_box: float | None = None,
) -> Collected:
    """One whole run, or as much of it as `time_box` seconds allow: the next one goes on.

    `grace` and `trash_window` in seconds, by default the configured ones.
    """
    run = _Run(store, limit("GC_GRACE") if grace is None else grace, report or (lambda done, total, text: None), time_box)
    try:
        run.go(limit("TRASH_WINDOW") if trash_window is None else trash_window)
    except _TimeIsOver:
        run.done.stopped = True
    return run.done


class _TimeIsOver(Exception):
    """Of the time box."""


class _Run:
    """Between any two batches it may stop, or die: what was claimed is finished by the next run."""

    def __init__(self, store: BlobStore, grace: float, report: Report, time_box: float | None) -> None:
        self.store, self.grace, self.report = store, grace, report
        self.until = None if time_box is None else time.monotonic() + time_box
        self.done = Collected()
        self.total = 0

    def go(self, trash_window: float) -> None:
        trash.forget(trash.window_start())
        self.done.uploads = uploads.sweep(self.store)
        self.total = candidates(self.grace).blobs
        for count in _unlink(self.grace):
            self.done.links += count
            self.tell(f"{self.done.links} unused links dropped")
        self.delete()  # claimed by a run that died
        for _ in _claim(self.grace):
            self.delete()
        self.tell("looking for files without a row")
        counted = (self.done.blobs, self.done.size)
        self.done.orphans = claim_orphans(self.store)
        self.delete()
        self.done.blobs, self.done.size = counted
        self.done.trashed_files_deleted = self.store.empty_trash(trash_window)

    def delete(self) -> None:
        while (sizes := delete_batch(self.store)) is not None:
            self.done.blobs += len(sizes)
            self.done.size += sum(sizes)
            self.tell(f"{self.done.blobs} blobs collected")

    def tell(self, text: str) -> None:
        self.report(self.done.blobs, max(self.total, self.done.blobs), text)
        if self.until is not None and time.monotonic() > self.until:
            raise _TimeIsOver


def _unused_links(cutoff: datetime) -> QuerySet[RepositoryBlob]:
    needed = ManifestBlob.objects.filter(repository=OuterRef("repository"), blob=OuterRef("blob"))
    return RepositoryBlob.objects.filter(touched_at__lt=cutoff).filter(~Exists(needed))


def _collectable(cutoff: datetime, now: datetime, going: QuerySet[RepositoryBlob] | None = None) -> QuerySet[Blob]:
    """What a run collects: claimed already, or old and without links and leases. `going`: links that count as gone."""
    links = RepositoryBlob.objects.filter(blob=OuterRef("pk"))
    if going is not None:
        links = links.exclude(pk__in=going.values("pk"))
    leases = Lease.objects.filter(Lease.valid(now), digest=OuterRef("digest"))
    free = Q(last_touched__lt=cutoff) & ~Exists(links) & ~Exists(leases)
    return Blob.objects.filter(Q(state=Blob.State.DELETING) | free)


def _unlink(grace: float) -> Iterator[int]:
    """Drop all unused links, BATCH at a time; yields how many each time."""
    cutoff = timezone.now() - timedelta(seconds=grace)
    after = 0
    while picked := list(_unused_links(cutoff).filter(pk__gt=after).order_by("id").values_list("id", flat=True)[:BATCH]):
        after = picked[-1]
        yield _unlink_picked(picked, cutoff, grace)


def _unlink_picked(picked: list[int], cutoff: datetime, grace: float) -> int:
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


def claim(grace: float) -> int:
    """Claim everything that `candidates` shows; returns how many blobs."""
    return sum(_claim(grace))


def _claim(grace: float) -> Iterator[int]:
    """Turn unreferenced blobs into DELETING ones, BATCH at a time; yields how many each time."""
    after = 0
    while True:
        now = timezone.now()
        rows = _collectable(now - timedelta(seconds=grace), now).exclude(state=Blob.State.DELETING)
        picked = list(rows.filter(pk__gt=after).order_by("id").values_list("id", flat=True)[:BATCH])
        if not picked:
            return
        after = picked[-1]
        with transaction.atomic():
            locked = list(_lock(Blob.objects.filter(pk__in=picked)).values_list("id", flat=True))
            chosen = list(rows.filter(pk__in=locked).values_list("id", flat=True))
            count = Blob.objects.filter(pk__in=chosen).update(state=Blob.State.DELETING, ver=F("ver") + 1)
        yield count


def delete_batch(store: BlobStore) -> list[int] | None:
    """Trash the files of up to BATCH claimed blobs and drop their rows; returns their sizes, None when there are no more."""
    with transaction.atomic():
        rows = list(_lock(Blob.objects.filter(state=Blob.State.DELETING))[:BATCH])
        if not rows:
            return None
        # The rename happens under the lock: an uploader of the same bytes waits for it, finds no row and restores the file.
        store.trash_all([Digest.parse(row.digest) for row in rows])
        Blob.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return [row.size for row in rows]


def claim_orphans(store: BlobStore) -> int:
    """Claim files without a row, older than the upload TTL: left by a crash between rename and commit. Returns how many.

    They get a row that is DELETING: whoever uploads the same bytes at this moment makes it live, as any claimed blob.
    """
    count = 0
    old = (blob for blob in store.blobs() if blob.age > limit("UPLOAD_TTL"))
    while part := {str(blob.digest): blob for blob in islice(old, BATCH)}:
        known = set(Blob.objects.filter(digest__in=part).values_list("digest", flat=True))
        now = timezone.now()
        rows = [
            Blob(digest=text, size=blob.size, state=Blob.State.DELETING, last_touched=now)
            for text, blob in part.items()
            if text not in known
        ]
        Blob.objects.bulk_create(rows, ignore_conflicts=True)
        count += len(rows)
    return count


def _lock(rows: QuerySet) -> QuerySet:  # type: ignore[type-arg]  # of whichever model, unchanged
    """Lock in the order of ids. Rows that a pusher holds are left for the next run."""
    skip = connection.features.has_select_for_update_skip_locked
    return rows.order_by("id").select_for_update(skip_locked=skip, no_key=True)
