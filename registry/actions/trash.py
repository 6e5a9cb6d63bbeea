"""Deleted manifests: kept for the undo window in a room of their own, brought back byte for byte, forgotten at its end.

The room is a repository that nobody can name. A deleted manifest's row moves there with its links to blobs, so that whatever
collects garbage sees references like any others and needs to know nothing of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from registry.actions import tags as tagging
from registry.actions.filled import refuse_users
from registry.actions.tags import record
from registry.errors import ManifestUnknown
from registry.limits import limit
from registry.models import Blob, Manifest, ManifestBlob, Repository, RepositoryBlob, Tag, Trashed
from registry.queries import standing

BATCH = 200


def window_start() -> datetime:
    """What was deleted before it can no longer be brought back."""
    return timezone.now() - timedelta(seconds=limit("UNDO_WINDOW"))


def lock_blobs(manifests: Iterable[int]) -> list[int]:
    """Lock the blobs of manifests, in the order that all writers keep (registry.models.blob)."""
    blobs = Blob.objects.filter(pk__in=ManifestBlob.objects.filter(manifest_id__in=manifests).values("blob_id"))
    return list(blobs.select_for_update(no_key=True).order_by("id").values_list("id", flat=True))


def lock_links(manifests: Iterable[int]) -> None:
    """Lock the links that manifests rely on in their own repositories: pushes that name the same blobs wait for us."""
    needed = ManifestBlob.objects.filter(manifest_id__in=manifests, repository=OuterRef("repository"), blob=OuterRef("blob"))
    links = RepositoryBlob.objects.filter(Exists(needed))
    list(links.select_for_update(of=("self",), no_key=True).order_by("id").values_list("id"))


def room_of(repository: Repository) -> Repository:
    """Where the deleted manifests of `repository` are."""
    key = new_id()
    fields = {"namespace": repository.namespace, "collection": repository.namespace.collection, "name": key}
    Repository.everything.bulk_create(
        [Repository(id=key, full_name=f"~{key}", trash_of=repository, **fields)], ignore_conflicts=True
    )
    return Repository.everything.get(trash_of=repository)


def put_away(actor: Actor, repository: Repository, manifest: Manifest, tags: list[str], act: str) -> None:
    """Move a manifest, whose blobs and row are locked and whose tags are gone, to the room; the undo window begins now."""
    if limit("UNDO_WINDOW") <= 0:
        manifest.delete()
        return
    now = timezone.now()
    room = room_of(repository)
    blobs = list(ManifestBlob.objects.filter(manifest=manifest).values_list("blob_id", flat=True))
    _link(room, blobs, actor.name)
    Manifest.objects.filter(repository=room, digest=manifest.digest).delete()  # deleted before, then pushed again
    ManifestBlob.objects.filter(manifest=manifest).update(repository=room)
    Manifest.objects.filter(pk=manifest.pk).update(repository=room)
    Trashed.objects.create(
        repository=repository,
        manifest=manifest,
        digest=manifest.digest,
        tags=tags,
        act=act,
        deleted_at=now,
        actor_name=actor.name,
    )


def _link(repository: Repository, blobs: Iterable[int], actor_name: str) -> None:
    now = timezone.now()
    RepositoryBlob.objects.bulk_create(
        [RepositoryBlob(repository=repository, blob_id=blob, pushed_by=actor_name, touched_at=now) for blob in sorted(blobs)],
        update_conflicts=True,
        unique_fields=["repository", "blob"],
        update_fields=["touched_at"],
    )


def take_back(actor: Actor, repository: Repository, digest: str) -> Manifest:
    """The live row of `digest` in `repository`, brought back from the room when it is there. Raises ManifestUnknown.

    Within a transaction of the caller.
    """
    found = Trashed.objects.filter(repository=repository, digest=digest, deleted_at__gt=window_start()).first()
    if found is not None:
        blobs = lock_blobs([found.manifest_id])
        # After the locks: whoever ends the window or undoes at the same time has committed.
        found = Trashed.objects.select_for_update(of=("self",), no_key=True).filter(pk=found.pk).first()
    live = Manifest.objects.select_for_update(no_key=True).filter(repository=repository, digest=digest).first()
    if found is not None and live is None:
        _link(repository, blobs, actor.name)
        ManifestBlob.objects.filter(manifest_id=found.manifest_id).update(repository=repository)
        Manifest.objects.filter(pk=found.manifest_id).update(repository=repository)
        live = Manifest.objects.get(pk=found.manifest_id)
        found.delete()
    if live is None:
        days = limit("UNDO_WINDOW") // 86400
        raise ManifestUnknown(
            f"{repository.full_name} has no manifest {digest}: it was never there, or was deleted more than {days} days ago"
        )
    return live


def restore_manifest(actor: Actor, repository: Repository, digest: str) -> list[str]:
    """Undo the act that deleted `digest`: it, what went with it, and those of its tags whose names are free; returns these.

    Raises ManifestUnknown.
    """
    standing.refuse_writes(fresh=True)
    refuse_users(actor, repository)
    with transaction.atomic():
        row = Trashed.objects.filter(repository=repository, digest=digest).first()
        together = Trashed.objects.filter(repository=repository, act=row.act).order_by("id") if row else []
        wanted = [(item.digest, list(item.tags)) for item in together] or [(digest, [])]
        now, back = timezone.now(), []
        digests = [item for item, _ in wanted]
        lock_blobs(Trashed.objects.filter(repository=repository, digest__in=digests).values_list("manifest_id", flat=True))
        for item, names in wanted:
            manifest = take_back(actor, repository, item)
            taken = set(Tag.objects.filter(repository=repository, name__in=names).values_list("name", flat=True))
            for name in names:
                if name not in taken:
                    tagging.point(actor, repository, name, manifest, now)
                    back.append(name)
        record(actor, repository, "manifest.restored", digest=digest, digests=digests, tags=back)
    return back


def restore_tag(actor: Actor, repository: Repository, name: str, digest: str) -> str:
    """Point a tag at what it named before; returns the digest it had until now, "" for none.

    Raises ManifestUnknown, TagImmutable, TagLimitReached.
    """
    standing.refuse_writes(fresh=True)
    refuse_users(actor, repository)
    with transaction.atomic():
        manifest = take_back(actor, repository, digest)
        before = tagging.point(actor, repository, name, manifest, timezone.now())
        evicted = tagging.make_room(actor, repository, {name}, timezone.now()) if repository.tag_limit else []
        tagging.record_evicted(actor, repository, repository.tag_limit, evicted)
        if before != digest:
            record(actor, repository, "tag.restored", tag=name, digest=digest, before=before)
    return before


def forget(before: datetime) -> int:
    """End the window of what was deleted before `before`; its blobs go at the next collections. Returns how many manifests."""
    return sum(len(gone) for gone in _batches(Trashed.objects.filter(deleted_at__lt=before)))


def forget_now(actor: Actor, repository: Repository) -> int:
    """End the window of what is deleted in `repository` so far; one event for each batch that goes. Returns how many."""
    rows = Trashed.objects.filter(repository=repository, deleted_at__lte=timezone.now())
    return sum(len(gone) for gone in _batches(rows, lambda gone: record(actor, repository, "manifest.forgotten", digests=gone)))


def _batches(rows: QuerySet[Trashed], told: Callable[[list[str]], None] | None = None) -> Iterator[list[str]]:
    """Forget `rows`, a transaction each BATCH, which `told` ends; gives the digests that went with each."""
    while picked := list(rows.order_by("id").values_list("id", "manifest_id")[:BATCH]):
        with transaction.atomic():
            blobs = lock_blobs([manifest for _, manifest in picked])
            gone = rows.select_for_update().filter(pk__in=[key for key, _ in picked])
            manifests = dict(gone.order_by("id").values_list("manifest_id", "digest"))
            # Dropping a reference touches the blob: its grace begins now.
            Blob.objects.filter(pk__in=blobs).update(last_touched=timezone.now(), ver=F("ver") + 1)
            Manifest.objects.filter(pk__in=manifests).delete()
            if told is not None and manifests:
                told(sorted(manifests.values()))
        yield list(manifests.values())
