"""Pushing and deleting manifests and tags.

A push locks the links of the blobs it names, in the order of their ids, before it looks whether they are there: a delete or the
collector then waits for its commit and sees its references, or has been first and the push is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from agent.protocol.oci import Descriptor, Digest
from agent.protocol.oci import Manifest as Document
from controlplane import events
from controlplane.api.actor import Actor
from registry.actions.filled import refuse_users
from registry.actions.repositories import ensure_repository
from registry.errors import ManifestBlobUnknown, ManifestUnknown, RepositoryUnknown, SizeInvalid
from registry.models import Blob, Manifest, ManifestBlob, ManifestChild, Repository, RepositoryBlob, Tag, TagChange
from registry.queries.content import stale_before


@dataclass(frozen=True, slots=True)
class Stored:
    digest: str
    created: bool


def put_manifest(
    actor: Actor, full_name: str, document: Document, digest: Digest, tags: Sequence[str], platforms: Sequence[str]
) -> Stored:
    """Store the manifest under `digest` (the caller checked it) and point `tags` at it.

    Raises RepositoryUnknown, ManifestBlobUnknown, SizeInvalid.
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
        now = timezone.now()
        # All row locks come before the events: the audit chain's lock is the one that everybody waits for.
        moved = [(tag, before) for tag in tags if (before := _point(actor, repository, tag, row, now)) != row.digest]
        Repository.objects.filter(pk=repository.pk).update(pushed_at=now)
        for tag, before in moved:
            events.record(
                "tag.pushed",
                actor=actor,
                target=f"repository/{repository.pk}",
                collection_path=repository.collection.path,
                data={"name": full_name, "tag": tag, "digest": row.digest, "before": before},
            )
        if created or not tags:
            events.record(
                "manifest.pushed",
                actor=actor,
                target=f"repository/{repository.pk}",
                collection_path=repository.collection.path,
                data={"name": full_name, "digest": str(digest), "media_type": document.media_type, "size": len(document.raw)},
            )
    return Stored(str(digest), created)


def _columns(actor: Actor, document: Document, platforms: Sequence[str]) -> dict[str, object]:
    return {
        "media_type": document.media_type,
        "content": document.raw,
        "size": len(document.raw),
        "total_size": sum(item.size for item in _needs(document)),
        "artifact_type": document.referrer_type,
        "annotations": dict(document.annotations) if document.subject else {},
        "subject": str(document.subject.digest) if document.subject else "",
        "platforms": list(platforms),
        "pushed_by": actor.name,
    }


def _needs(document: Document) -> list[Descriptor]:
    """The blobs that must be in the repository."""
    own = [document.config] if document.config else []
    return [item for item in (*own, *document.layers) if item.distributable]


def _lock_blobs(repository: Repository, document: Document) -> set[int]:
    needs = {str(item.digest): item.size for item in _needs(document)}
    links = list(
        RepositoryBlob.objects.select_for_update(of=("self",), no_key=True)
        .select_related("blob")
        .filter(repository=repository, blob__digest__in=needs, blob__state=Blob.State.LIVE)
        .order_by("id")
    )
    found = {link.blob.digest: link.blob.size for link in links}
    for digest, size in needs.items():
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


def _point(actor: Actor, repository: Repository, name: str, manifest: Manifest, now: datetime) -> str:
    """Point the tag at the manifest; returns the digest it had before, "" for none."""
    tags = Tag.objects.select_for_update(of=("self",), no_key=True)
    tag = tags.select_related("manifest").filter(repository=repository, name=name).first()
    before = ""
    if tag is not None:
        before = tag.manifest.digest
        Tag.objects.filter(pk=tag.pk).update(manifest=manifest, pushed_by=actor.name, pushed_at=now)
    else:
        # Two first pushes of one tag: the unique row decides who was first, the later one wins as if it came after.
        Tag.objects.update_or_create(
            repository=repository, name=name, defaults={"manifest": manifest, "pushed_by": actor.name, "pushed_at": now}
        )
    if before != manifest.digest:
        TagChange.objects.create(
            repository=repository, tag=name, before=before, after=manifest.digest, actor_name=actor.name, at=now
        )
    return before


def delete_manifest(actor: Actor, full_name: str, digest: str) -> None:
    """The manifest and its tags. Its blobs stay until the collector finds them unused. Raises ManifestUnknown."""
    with transaction.atomic():
        # The links of its blobs begin their grace now: a client may be about to push another manifest with them.
        needed = ManifestBlob.objects.filter(manifest__digest=digest, repository__full_name=full_name).values("blob_id")
        links = RepositoryBlob.objects.filter(repository__full_name=full_name, blob_id__in=needed)
        locked = list(links.select_for_update(of=("self",), no_key=True).order_by("id").values_list("id", flat=True))
        row = (
            Manifest.objects.select_for_update(of=("self",))
            .select_related("repository__collection")
            .filter(repository__full_name=full_name, digest=digest)
            .first()
        )
        if row is None:
            raise ManifestUnknown(f"{full_name} has no manifest {digest}")
        refuse_users(actor, row.repository)
        now = timezone.now()
        tags = list(row.tags.order_by("name").values_list("name", flat=True))
        TagChange.objects.bulk_create(
            [
                TagChange(repository=row.repository, tag=tag, before=digest, after="", actor_name=actor.name, at=now)
                for tag in tags
            ]
        )
        RepositoryBlob.objects.filter(pk__in=locked, touched_at__lt=stale_before()).update(touched_at=now)
        row.delete()
        events.record(
            "manifest.deleted",
            actor=actor,
            target=f"repository/{row.repository.pk}",
            collection_path=row.repository.collection.path,
            data={"name": full_name, "digest": digest, "tags": tags},
        )


def delete_tag(actor: Actor, full_name: str, name: str) -> None:
    """The name alone; the manifest stays (distribution-spec, "Deleting tags"). Raises ManifestUnknown."""
    with transaction.atomic():
        tag = (
            Tag.objects.select_for_update(of=("self",))
            .select_related("repository__collection", "manifest")
            .filter(repository__full_name=full_name, name=name)
            .first()
        )
        if tag is None:
            raise ManifestUnknown(f"{full_name} has no tag {name}")
        refuse_users(actor, tag.repository)
        digest = tag.manifest.digest
        TagChange.objects.create(
            repository=tag.repository, tag=name, before=digest, after="", actor_name=actor.name, at=timezone.now()
        )
        Tag.objects.filter(pk=tag.pk).delete()
        events.record(
            "tag.deleted",
            actor=actor,
            target=f"repository/{tag.repository.pk}",
            collection_path=tag.repository.collection.path,
            data={"name": full_name, "tag": name, "digest": digest},
        )
