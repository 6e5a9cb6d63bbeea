"""References to blobs: made by uploads and mounts, dropped by deletes.

The rule of registry.models.blob: lock the blob's row, see that it is live, then add the reference.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agent.protocol.errors import Internal
from agent.protocol.oci import Digest
from controlplane import rbac
from controlplane.api.actor import Actor
from registry.actions import quotas
from registry.errors import BlobUnknown, Unsupported
from registry.models import Blob, ManifestBlob, Repository, RepositoryBlob, Upload
from registry.queries import standing
from registry.queries.content import BlobRow
from registry.storage.store import BlobStore


class BlobVanished(Internal):
    """Its bytes were stored a moment ago and are not there now."""

    code = "blob_vanished"


def revive_or_create(store: BlobStore, digest: Digest, size: int) -> Blob:
    """The live row of a blob whose file was just stored; call within a transaction."""
    now = timezone.now()
    blob = None
    while blob is None:  # again only when the collector dropped the row between the two statements
        # INSERT ... ON CONFLICT DO NOTHING waits for a rival's commit and costs no savepoint.
        Blob.objects.bulk_create([Blob(digest=str(digest), size=size, last_touched=now, created_at=now)], ignore_conflicts=True)
        blob = Blob.objects.select_for_update(no_key=True).filter(digest=str(digest)).first()
    # Between our rename and our lock the collector may have moved this very file to the trash and dropped its row. Now that we
    # hold the row it cannot any more: bring the file back.
    if store.size(digest) is None and not store.restore(digest):
        raise BlobVanished(f"blob {digest} vanished from the store while it was committed; push it again")
    if blob.state != Blob.State.LIVE:
        Blob.objects.filter(pk=blob.pk).update(state=Blob.State.LIVE, ver=F("ver") + 1, last_touched=now, verified_at=now)
    return blob


def bring_back(store: BlobStore, repository_id: str, digest: Digest, size: int, pusher: str) -> bool:
    """Put a blob that the collector took, or may have taken, back into the repository. False when the trash has it no more."""
    try:
        with transaction.atomic():
            link_live(repository_id, revive_or_create(store, digest, size), pusher)
    except BlobVanished:
        return False
    return True


def link_live(repository_id: str, blob: Blob, pusher: str, session: str = "") -> None:
    """Put the locked, live `blob` into the repository, or touch the link that is there; ends the upload `session`.

    Raises QuotaExceeded.
    """
    namespace = quotas.limited(repository_id)
    size = reserved = 0
    if namespace is not None:
        known = RepositoryBlob.objects.filter(blob=blob, repository__namespace=namespace).exists()
        size = 0 if known else blob.size
        reserved = Upload.objects.filter(pk=session).values_list("reserved", flat=True).first() or 0 if session else 0
    RepositoryBlob.objects.bulk_create(
        [RepositoryBlob(repository_id=repository_id, blob=blob, pushed_by=pusher, touched_at=timezone.now())],
        update_conflicts=True,
        unique_fields=["repository", "blob"],
        update_fields=["touched_at"],
    )
    if session:
        Upload.objects.filter(pk=session).delete()
    if namespace is not None:
        quotas.settle(namespace, size, reserved)


def touch(row: BlobRow) -> bool:
    """A pusher saw this blob and will rely on it: protect its link for a grace. False when it went meanwhile."""
    return not row.stale or RepositoryBlob.objects.filter(pk=row.link_id).update(touched_at=timezone.now()) == 1


def mount(actor: Actor, repository: Repository, digest: Digest, source: str) -> bool:
    """Link a blob that the actor can pull elsewhere. `source` "" means any repository. False = let them upload it.

    An unreadable source behaves like a missing one: nobody learns from a mount what others hold.
    """
    sources = Repository.objects.filter(blob_links__blob__digest=str(digest), blob_links__blob__state=Blob.State.LIVE)
    if source:
        sources = sources.filter(full_name=source)
    if not rbac.visible(actor, sources, "Repository Pull").exists():
        return False
    with transaction.atomic():
        blob = Blob.objects.select_for_update(no_key=True).filter(digest=str(digest), state=Blob.State.LIVE).first()
        if blob is None:
            return False
        link_live(repository.pk, blob, actor.name)
    return True


def delete_blob(full_name: str, digest: Digest) -> None:
    """Take a blob out of a repository. Raises BlobUnknown, Unsupported while a manifest of the repository needs it."""
    standing.refuse_writes()
    with transaction.atomic():
        blob = Blob.objects.select_for_update(no_key=True).filter(digest=str(digest), state=Blob.State.LIVE).first()
        links = RepositoryBlob.objects.select_for_update(of=("self",), no_key=True).select_related("repository")
        link = links.filter(repository__full_name=full_name, blob=blob).first() if blob is not None else None
        if link is None:
            raise BlobUnknown(f"{full_name} holds no blob {digest}")
        # A new statement after the lock: a manifest that was being pushed has locked the link and is visible by now.
        user = (
            ManifestBlob.objects.filter(repository_id=link.repository_id, blob_id=link.blob_id).select_related("manifest").first()
        )
        if user is not None:
            raise Unsupported(f"the manifest {user.manifest.digest} of {full_name} needs this blob; delete the manifest first")
        drop_links([link])


def drop_links(links: list[RepositoryBlob]) -> None:
    """Remove links that are locked, with their blobs, and touch the blobs, so that the grace begins now."""
    Blob.objects.filter(pk__in=[link.blob_id for link in links]).update(last_touched=timezone.now(), ver=F("ver") + 1)
    RepositoryBlob.objects.filter(pk__in=[link.pk for link in links]).delete()
    quotas.unlinked([(link.repository.namespace_id, link.blob_id) for link in links])
