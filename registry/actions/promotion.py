"""Promotion: an image enters another repository as it is, with its children and referrers. The same digest there is a no-op.

Each manifest is a push of its own, children first, the tag last: a promotion that dies half-way leaves manifests without a tag
and is done again from the start, which finds them there.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db import transaction

from agent.protocol.errors import InvalidInput
from agent.protocol.oci import Digest, parse_manifest
from agent.protocol.oci import Manifest as Document
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.events.models import Event
from controlplane.jobs import enqueue
from registry.actions.blobs import link_live
from registry.actions.filled import refuse_others
from registry.actions.manifests import needs, put_manifest
from registry.actions.reactions import reaction
from registry.actions.tags import record
from registry.errors import ManifestBlobUnknown, ManifestUnknown, RepositoryUnknown
from registry.models import Blob, Manifest, Policy, Repository, Tag
from registry.queries import standing

JOB = "registry.promote"
MOST = 1000  # manifests of one image


def actor_of(policy: Policy) -> Actor:
    """Who acts for a policy: nobody's rights are asked again, its author's were when it was saved."""
    return Actor("system", policy.pk, f"policy/{policy.pk}")


def promote(
    actor: Actor, source: Repository, digest: str, target: Repository, tag: str, *, policy: str = "", source_tag: str = ""
) -> bool:
    """Make `tag` of `target` name the image `digest` of `source`. False when it does already.

    Raises ManifestUnknown, TagImmutable, TagLimitReached, QuotaExceeded, RegistryReadOnly, TargetReadOnly.
    """
    standing.refuse_writes(fresh=True)
    refuse_others(target)
    if Tag.objects.filter(repository=target, name=tag, manifest__digest=digest).exists():
        return False
    image = list(_closure(source, digest))
    for row in image:
        document = parse_manifest(bytes(row.content), row.media_type)
        _link(actor, target, document)
        if row.digest != digest:
            put_manifest(actor, target.full_name, document, Digest.parse(row.digest), [], row.platforms)
    root = next(row for row in image if row.digest == digest)
    document = parse_manifest(bytes(root.content), root.media_type)
    with transaction.atomic():
        put_manifest(actor, target.full_name, document, Digest.parse(digest), [tag], root.platforms)
        data = {"digest": digest, "target": target.full_name, "target_tag": tag, "policy": policy, "manual": not policy}
        record(actor, source, "tag.promoted", tag=source_tag, **data)
    return True


def _closure(source: Repository, digest: str) -> Iterator[Manifest]:
    """The image's manifests, each after its children; then what refers to them."""
    own = Manifest.objects.filter(repository=source)
    seen: set[str] = set()

    def below(name: str) -> Iterator[Manifest]:
        row = own.filter(digest=name).first()
        if row is None or name in seen or len(seen) >= MOST:
            return
        seen.add(name)
        for child in row.children.order_by("digest").values_list("digest", flat=True):
            yield from below(child)
        yield row

    found = list(below(digest))
    if not found:
        raise ManifestUnknown(f"{source.full_name} has no manifest {digest} any more")
    while found:
        yield from found
        subjects = [row.digest for row in found]
        names = own.filter(subject__in=subjects).order_by("digest").values_list("digest", flat=True)
        found = [row for name in list(names) for row in below(name)]


def _link(actor: Actor, target: Repository, document: Document) -> None:
    """The blobs of a manifest enter `target` as a mount would bring them; nobody's right to push there is asked."""
    digests = {str(item.digest) for item in needs(document)}
    with transaction.atomic():
        rows = Blob.objects.select_for_update(no_key=True).filter(digest__in=digests, state=Blob.State.LIVE).order_by("id")
        blobs = list(rows)
        if len(blobs) < len(digests):
            raise ManifestBlobUnknown("a blob of the image went while it was promoted")
        for blob in blobs:
            link_live(target.pk, blob, actor.name)


def promote_by_hand(actor: Actor, source: Repository, name: str, target_name: str, target_tag: str) -> bool:
    """`actor`, who can pull here and push there, promotes a tag. Raises RepositoryUnknown, Denied and what `promote` raises."""
    rbac.require(actor, "Repository Pull", source)
    target = Repository.objects.select_related("collection", "namespace").filter(full_name=target_name).first()
    if target is None:
        raise RepositoryUnknown(f"there is no repository {target_name}, or you may not see it; create it first")
    rbac.require(actor, "Repository Push", target)
    digest = Tag.objects.filter(repository=source, name=name).values_list("manifest__digest", flat=True).first()
    if digest is None:
        raise ManifestUnknown(f"{source.full_name} has no tag {name}")
    if source.pk == target.pk and name == target_tag:
        raise InvalidInput("the tag would be promoted to itself; name another repository or another tag")
    return promote(actor, source, digest, target, target_tag, source_tag=name)


@reaction("promotion", "tag.pushed", "tag.restored")
def after_push(event: Event) -> None:
    """A tag moved: its repository's promotion policies look at it, in a job of their own."""
    repository = event.target.removeprefix("repository/")
    if Policy.objects.filter(kind=Policy.Kind.PROMOTION, enabled=True, repository=repository).exists():
        tag, digest = event.data["tag"], event.data["digest"]
        enqueue(JOB, {"repository": repository, "tag": tag, "digest": digest}, actor=_SYSTEM)


_SYSTEM = Actor("system", "promotion", "promotion")
