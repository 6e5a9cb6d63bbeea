"""Pushing and deleting manifests and tags.

A push locks the links of the blobs it names, in the order of their ids, before it looks whether they are there: a delete or the
collector then waits for its commit and sees its references, or has been first and the push is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agent.protocol.oci import Descriptor, Digest
from agent.protocol.oci import Manifest as Document
from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from registry.actions import quotas, trash
from registry.actions.filled import refuse_users
from registry.actions.repositories import ensure_repository
from registry.actions.tags import delete_tag, make_room, point, record, record_evicted, refuse_if_held, refuse_if_immutable
from registry.errors import ManifestBlobUnknown, ManifestUnknown, RepositoryUnknown, SizeInvalid
from registry.models import Blob, Manifest, ManifestBlob, ManifestChild, Repository, RepositoryBlob, Tag, TagChange
from registry.queries import standing
from registry.queries.content import stale_before

__all__ = ["Stored", "delete_manifest", "delete_tag", "needs", "put_manifest", "remove"]


@dataclass(frozen=True, slots=True)
class Stored:
    """`warnings` are sentences for the pusher: what was evicted, how full the quota is."""

    digest: str
    created: bool
    warnings: tuple[str, ...] = ()


def put_manifest(
    actor: Actor, full_name: str, document: Document, digest: Digest, tags: Sequence[str], platforms: Sequence[str]
) -> Stored:
    """Store the manifest under `digest` (the caller checked it) and point `tags` at it.

    Raises RepositoryUnknown, ManifestBlobUnknown, SizeInvalid, TagImmutable, TagLimitReached.
    """
    ensure_repository(actor, full_name)  # an index without children may be the first thing that is pushed
    with transaction.atomic():
        repository = Repository.objects.select_related("collection").filter(full_name=full_name).first()
        if repository is None:
            raise RepositoryUnknown(f"the repository {full_name} was deleted just now")
        blobs = _lock_blobs(repository, document)
        _check_children(repository, document)
        row, created = Manifest.objects.get_or_create(
            repository=repository, digest=str(digest), defaults=_columns(actor, document, platforms)
        )
        if created:
            ManifestBlob.objects.bulk_create(
                [ManifestBlob(manifest=row, repository=repository, blob_id=blob_id) for blob_id in sorted(blobs)]
            )
            children = {str(child.digest) for child in document.manifests}
            ManifestChild.objects.bulk_create([ManifestChild(manifest=row, digest=child) for child in sorted(children)])
        elif not blobs and not Manifest.objects.select_for_update(no_key=True).filter(pk=row.pk, repository=repository).exists():
            # Without blobs no lock of ours kept a delete out: it may have moved the row away.
            raise ManifestUnknown(f"{digest} was deleted from {full_name} while it was pushed; push it again")
        now = timezone.now()
        # All row locks come before the events: the audit chain's lock is the one that everybody waits for.
        moved = [(tag, before) for tag in tags if (before := point(actor, repository, tag, row, now)) != row.digest]
        evicted = []
        if repository.tag_limit and any(not before for _, before in moved):
            evicted = make_room(actor, repository, tags, now)
        Repository.objects.filter(pk=repository.pk).update(pushed_at=now, pushes=F("pushes") + 1)
        warnings = quotas.warnings(actor, repository)
        for tag, before in moved:
            record(actor, repository, "tag.pushed", tag=tag, digest=row.digest, before=before)
        record_evicted(actor, repository, repository.tag_limit, evicted)
        for gone in evicted:
            warnings.append(f"tag {gone.tag} was evicted: {full_name} is limited to {repository.tag_limit} tags")
        if created or not tags:
            media_type, size = document.media_type, len(document.raw)
            record(actor, repository, "manifest.pushed", digest=str(digest), media_type=media_type, size=size)
    return Stored(str(digest), created, tuple(warnings))


def _columns(actor: Actor, document: Document, platforms: Sequence[str]) -> dict[str, object]:
    return {
        "media_type": document.media_type,
        "content": document.raw,
        "size": len(document.raw),
        "total_size": sum(item.size for item in needs(document)),
        "artifact_type": document.referrer_type,
        "annotations": dict(document.annotations) if document.subject else {},
        "subject": str(document.subject.digest) if document.subject else "",
        "platforms": list(platforms),
        "pushed_by": actor.name,
    }


def needs(document: Document) -> list[Descriptor]:
    """The blobs that must be in the repository."""
    own = [document.config] if document.config else []
    return [item for item in (*own, *document.layers) if item.distributable]


def _lock_blobs(repository: Repository, document: Document) -> set[int]:
    sizes = {str(item.digest): item.size for item in needs(document)}
    links = list(
        RepositoryBlob.objects.select_for_update(of=("self",), no_key=True)
        .select_related("blob")
        .filter(repository=repository, blob__digest__in=sizes, blob__state=Blob.State.LIVE)
        .order_by("id")
    )
    found = {link.blob.digest: link.blob.size for link in links}
    for digest, size in sizes.items():
        if digest not in found:
            raise ManifestBlobUnknown(
                f"{repository.full_name} holds no blob {digest}; push it before the manifest", digest=digest
            )
        if found[digest] != size:
            raise SizeInvalid(f"blob {digest} has {found[digest]} bytes, the manifest says {size}", digest=digest)
    stale = [link.pk for link in links if link.touched_at < stale_before()]
    if stale:
        RepositoryBlob.objects.filter(pk__in=stale).update(touched_at=timezone.now())
    return {link.blob_id for link in links}


def _check_children(repository: Repository, document: Document) -> None:
    wanted = {str(child.digest) for child in document.manifests}
    if not wanted or repository.sparse_indexes:
        return
    rows = Manifest.objects.select_for_update(no_key=True).filter(repository=repository, digest__in=wanted).order_by("id")
    missing = wanted - set(rows.values_list("digest", flat=True))
    if missing:
        raise ManifestBlobUnknown(
            f"{repository.full_name} holds no manifest {min(missing)}; push the children of an index before it, or allow"
            " sparse indexes in the repository's settings",
            digest=min(missing),
        )


def delete_manifest(actor: Actor, full_name: str, digest: str, *, force: bool = False) -> None:
    """The manifest and its tags; they can be brought back within the undo window (registry.actions.trash).

    Raises ManifestUnknown, TagImmutable, and without `force` ImageInUse for what a node runs or a service names.
    """
    standing.refuse_writes(fresh=True)
    with transaction.atomic():
        found = Manifest.objects.filter(repository__full_name=full_name, digest=digest).values_list("id", flat=True).first()
        if found is None:
            raise ManifestUnknown(f"{full_name} has no manifest {digest}")
        trash.lock_blobs([found])
        trash.lock_links([found])
        row = _locked(found)
        if row is None or row.repository.full_name != full_name:
            raise ManifestUnknown(f"{full_name} has no manifest {digest}")
        refuse_users(actor, row.repository)
        tags = list(row.tags.order_by("name").values_list("name", flat=True))
        for tag in tags:
            refuse_if_immutable(row.repository, tag, "deleted")
        if not force:
            refuse_if_held(actor, row.repository, digest, digest)
        remove(actor, row, tags, new_id())


def _locked(key: int) -> Manifest | None:
    rows = Manifest.objects.select_for_update(of=("self",)).select_related("repository__collection")
    return rows.select_related("repository__namespace__collection").filter(pk=key).first()


def remove(actor: Actor, row: Manifest, tags: list[str], act: str) -> None:
    """Put a manifest away that is locked, like its blobs and links, and may go: with its tags, their history and one event."""
    now, repository = timezone.now(), row.repository
    TagChange.objects.bulk_create(
        [TagChange(repository=repository, tag=tag, before=row.digest, after="", actor_name=actor.name, at=now) for tag in tags]
    )
    Tag.objects.filter(manifest=row).delete()
    # The links of its blobs begin their grace now: a client may be about to push another manifest with them.
    needed = ManifestBlob.objects.filter(manifest=row).values("blob_id")
    links = RepositoryBlob.objects.filter(repository=repository, blob_id__in=needed)
    links.filter(touched_at__lt=stale_before()).update(touched_at=now)
    trash.put_away(actor, repository, row, tags, act)
    record(actor, repository, "manifest.deleted", digest=row.digest, tags=tags)
