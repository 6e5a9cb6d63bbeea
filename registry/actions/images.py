"""Removing a tag together with the image that nothing else needs: what retention and pruning leave behind."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from registry.actions import manifests, trash
from registry.actions.tags import drop_tag, record, refuse_if_held, refuse_if_immutable
from registry.models import Manifest, ManifestChild, Repository, Tag
from registry.queries.holders import holders

MOST = 1000  # manifests in one act: an index of indexes with its signatures stays far below


def remove_tag(actor: Actor, repository: Repository, name: str, digest: str) -> bool:
    """Remove the tag if it still names `digest`, and its image with children and referrers when no other tag or index has it.

    False when the tag moved or went meanwhile. Raises TagImmutable, ImageInUse: judged again under the locks.
    """
    with transaction.atomic():
        found = Tag.objects.filter(repository=repository, name=name, manifest__digest=digest).first()
        if found is None:
            return False
        group = _group(repository, found.manifest_id, name)
        _lock(group)
        # Without its manifest: see registry.actions.tags.
        tag = Tag.objects.select_for_update(of=("self",)).select_related("repository__collection").filter(pk=found.pk).first()
        if tag is None or tag.manifest_id != found.manifest_id:
            return False
        refuse_if_immutable(repository, name, "deleted", fresh=True)
        if not group:
            drop_tag(actor, tag)
            return True
        refuse_if_held(actor, repository, digest, f"tag {name}")
        _remove(actor, repository, group, {tag.manifest_id: [name]})
        record(actor, tag.repository, "tag.deleted", tag=name, digest=digest)
    return True


def remove_untagged(actor: Actor, repository: Repository, digest: str) -> bool:
    """Remove a manifest that no tag names, with its children and referrers. False when it is needed again or gone."""
    with transaction.atomic():
        found = Manifest.objects.filter(repository=repository, digest=digest, tags=None).values_list("id", flat=True).first()
        group = _group(repository, found, "") if found else []
        _lock(group)
        if not group or Tag.objects.filter(manifest_id__in=group).exists():
            return False
        refuse_if_held(actor, repository, digest, digest)
        _remove(actor, repository, group, {})
    return True


def _lock(group: Iterable[int]) -> None:
    trash.lock_blobs(group)
    trash.lock_links(group)
    list(Manifest.objects.select_for_update(no_key=True).filter(pk__in=group).order_by("id").values_list("id"))


def _remove(actor: Actor, repository: Repository, group: list[int], tags: dict[int, list[str]]) -> None:
    act = new_id()
    rows = Manifest.objects.select_related("repository__collection", "repository__namespace__collection")
    running = holders(repository.full_name, rows.filter(pk__in=group).values_list("digest", flat=True))
    for row in rows.filter(pk__in=group).order_by("id"):
        if row.digest not in running:
            manifests.remove(actor, row, tags.get(row.pk, []), act)


def _group(repository: Repository, root: int, tag: str) -> list[int]:
    """The manifests that go with `root` once `tag` is gone: [] when another tag or an index needs the root itself."""
    own = Manifest.objects.filter(repository=repository)
    digests = dict(own.filter(pk=root).values_list("id", "digest"))
    if Tag.objects.filter(manifest=root).exclude(name=tag).exists() or _needed(repository, digests.values(), set(digests)):
        return []
    waiting = set(digests)
    while waiting and len(digests) < MOST:
        children = ManifestChild.objects.filter(manifest__in=waiting).values("digest")
        subjects = [digests[key] for key in waiting]
        more = own.filter(tags=None).exclude(pk__in=digests)
        found = dict(more.filter(digest__in=children).values_list("id", "digest"))
        kept = _needed(repository, found.values(), {*digests, *found})
        found = {key: digest for key, digest in found.items() if digest not in kept}
        found.update(more.filter(subject__in=subjects).values_list("id", "digest"))
        digests.update(found)
        waiting = set(found)
    return sorted(digests)


def _needed(repository: Repository, digests: Iterable[str], group: set[int]) -> set[str]:
    """Those of `digests` that an index outside of `group` holds."""
    parents = ManifestChild.objects.filter(manifest__repository=repository, digest__in=list(digests)).exclude(manifest__in=group)
    return set(parents.values_list("digest", flat=True))
