"""Pointing tags, and what stops them: immutability, leases, the tag limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from controlplane import events
from controlplane.api.actor import Actor
from registry.actions.filled import refuse_users
from registry.errors import ImageInUse, ManifestUnknown, TagImmutable, TagLimitReached
from registry.models import Manifest, Repository, Tag, TagChange
from registry.queries import standing
from registry.queries.holders import holders
from registry.running import in_use_by

LOOKED_AT = 500  # of a repository's oldest tags, for one that may go


@dataclass(frozen=True, slots=True)
class Evicted:
    tag: str
    digest: str


def point(actor: Actor, repository: Repository, name: str, manifest: Manifest, now: datetime) -> str:
    """Point the tag at the manifest; returns the digest it had before, "" for none. Raises TagImmutable.

    Two first pushes of one tag: the unique row decides who was first, the later one wins as if it came after, or is refused.
    """
    values = {"manifest": manifest, "pushed_by": actor.name, "pushed_at": now}
    tag = _locked(repository, name)
    if tag is None:
        # INSERT ... ON CONFLICT DO NOTHING waits for a rival's commit and costs no savepoint.
        made = Tag.objects.bulk_create([Tag(repository=repository, name=name, **values)], ignore_conflicts=True)
        tag = _locked(repository, name)
        if tag is None:
            raise ManifestUnknown(f"tag {name} of {repository.full_name} was deleted while it was pushed; push it again")
        mine = tag.manifest_id == manifest.pk and tag.pushed_at == made[0].pushed_at and tag.pushed_by == actor.name
        before = "" if mine else tag.manifest.digest
    else:
        before = tag.manifest.digest
    if before and before != manifest.digest:
        refuse_if_immutable(repository, name, "overwritten")
    if before:
        Tag.objects.filter(pk=tag.pk).update(**values)
    if before != manifest.digest:
        TagChange.objects.create(
            repository=repository, tag=name, before=before, after=manifest.digest, actor_name=actor.name, at=now
        )
    return before


def _locked(repository: Repository, name: str) -> Tag | None:
    """The locked tag with its manifest.

    Not in one statement: PostgreSQL, when it had to wait, looks at the tag as it is then and at the manifest of before, and finds
    that they do not belong together.
    """
    tag = Tag.objects.select_for_update(no_key=True).filter(repository=repository, name=name).first()
    if tag is not None:
        tag.manifest = Manifest.objects.defer("content").get(pk=tag.manifest_id)
    return tag


def refuse_if_immutable(repository: Repository, tag: str, what: str, *, fresh: bool = False) -> None:
    rule = standing.current(fresh=fresh).held(repository, tag)
    if rule:
        raise TagImmutable(
            f"tag {tag} of {repository.full_name} cannot be {what}: it is immutable by {rule}; use another tag, or ask one of"
            " the repository's administrators to change that",
            tag=tag,
            rule=rule,
        )


def refuse_if_held(actor: Actor, repository: Repository, digest: str, what: str) -> None:
    """Raises ImageInUse. Call it after the blobs' locks: who leases them has committed by then, or waits for us."""
    found = holders(repository.full_name, [digest]).get(digest)
    if found:
        raise ImageInUse(
            f"{what} of {repository.full_name} is in use by {in_use_by(actor, found)}:"
            " stop what runs it, or delete with force in the console, by `wharf repo rm --force` or in the REST interface",
            holders=found,
            digest=digest,
        )


def make_room(actor: Actor, repository: Repository, fresh: Collection[str], now: datetime) -> list[Evicted]:
    """Evict the oldest tags beyond the repository's limit, never one of `fresh`, an immutable or a running one.

    Raises TagLimitReached when too few may go. Call it after the tags were pointed.
    """
    # Pushers of one repository queue here: two that counted at once would both find room.
    limit = Repository.objects.select_for_update(of=("self",), no_key=True).get(pk=repository.pk).tag_limit
    excess = Tag.objects.filter(repository=repository).count() - limit
    if limit == 0 or excess <= 0:
        return []
    # Whoever holds one of these moves it or deletes it just now: to wait for them here could be for ever.
    skip = connection.features.has_select_for_update_skip_locked
    rows = Tag.objects.select_for_update(of=("self",), skip_locked=skip).select_related("manifest").defer("manifest__content")
    going = evictable(repository, rows.filter(repository=repository).exclude(name__in=fresh).order_by("pushed_at", "id"), excess)
    if len(going) < excess:
        raise TagLimitReached(
            f"{repository.full_name} is limited to {limit} tags, and none of the others may go: they are immutable or running;"
            " delete tags by hand, raise the limit or loosen the immutability rules",
            limit=limit,
        )
    TagChange.objects.bulk_create(
        [
            TagChange(repository=repository, tag=tag.name, before=tag.manifest.digest, after="", actor_name=actor.name, at=now)
            for tag in going
        ]
    )
    Tag.objects.filter(pk__in=[tag.pk for tag in going]).delete()
    return [Evicted(tag.name, tag.manifest.digest) for tag in going]


def evictable(repository: Repository, rows: QuerySet[Tag], wanted: int) -> list[Tag]:
    """The first `wanted` of `rows`, which are sorted oldest first, that may go."""
    rules = standing.current()
    oldest = [tag for tag in rows[:LOOKED_AT] if not rules.held(repository, tag.name)] if wanted else []
    running = holders(repository.full_name, [tag.manifest.digest for tag in oldest])
    return [tag for tag in oldest if tag.manifest.digest not in running][:wanted]


def delete_tag(actor: Actor, full_name: str, name: str, *, force: bool = False) -> None:
    """The name alone; the manifest stays (distribution-spec, "Deleting tags").

    Raises ManifestUnknown, TagImmutable, and without `force` ImageInUse for the last tag of an image that runs.
    """
    standing.refuse_writes(fresh=True)
    with transaction.atomic():
        repository = Repository.objects.select_related("collection").filter(full_name=full_name).first()
        tag = _locked(repository, name) if repository is not None else None
        if repository is None or tag is None:
            raise ManifestUnknown(f"{full_name} has no tag {name}")
        tag.repository = repository
        refuse_users(actor, tag.repository)
        refuse_if_immutable(tag.repository, name, "deleted")
        digest = tag.manifest.digest
        if not force and not Tag.objects.filter(manifest=tag.manifest).exclude(pk=tag.pk).exists():
            refuse_if_held(actor, tag.repository, digest, f"tag {name}")
        drop_tag(actor, tag)


def drop_tag(actor: Actor, tag: Tag) -> None:
    """Remove a tag whose row is locked and that may go, with its history and its event."""
    digest = tag.manifest.digest
    TagChange.objects.create(
        repository=tag.repository, tag=tag.name, before=digest, after="", actor_name=actor.name, at=timezone.now()
    )
    Tag.objects.filter(pk=tag.pk).delete()
    record(actor, tag.repository, "tag.deleted", tag=tag.name, digest=digest)


def record_evicted(actor: Actor, repository: Repository, limit: int, evicted: Iterable[Evicted]) -> None:
    for gone in evicted:
        record(actor, repository, "tag.evicted", tag=gone.tag, digest=gone.digest, limit=limit)


def record(actor: Actor, repository: Repository, kind: str, **data: object) -> None:
    """An event about a repository whose collection was fetched with it."""
    events.record(
        kind,
        actor=actor,
        target=f"repository/{repository.pk}",
        collection_path=repository.collection.path,
        data={"name": repository.full_name, **data},
    )
