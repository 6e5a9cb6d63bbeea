"""The tags of a repository as policies see them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef

from registry.models import Manifest, ManifestChild, Policy, Repository, Tag
from registry.queries.holders import holders
from registry.queries.standing import Standing
from registry.rules import Candidate, matches

CHUNK = 500


def candidates(
    repository: Repository, standing: Standing, *, tags: str = "*", since: datetime | None = None, names: list[str] | None = None
) -> list[Candidate]:
    """Tags that fit the pattern, pushed after `since`, newest first; `names` narrows them to these."""
    rows = Tag.objects.filter(repository=repository)
    if since is not None:
        rows = rows.filter(pushed_at__gt=since)
    if names is not None:
        rows = rows.filter(name__in=names)
    columns = ("name", "manifest__digest", "pushed_at", "pulled_at", "manifest__pulled_at")
    found = [row for row in rows.order_by("-pushed_at", "-id").values_list(*columns) if matches(tags, row[0])]
    running = _running(repository.full_name, [row[1] for row in found])
    return [
        Candidate(
            tag=name,
            digest=digest,
            pushed_at=pushed_at,
            pulled_at=max(filter(None, [pulled_at, by_digest]), default=None),
            immutable=standing.held(repository, name),
            holders=tuple(running.get(digest, ())),
        )
        for name, digest, pushed_at, pulled_at, by_digest in found
    ]


def untagged(repository: Repository) -> list[Candidate]:
    """Manifests that no tag names, no index holds, and that describe nothing that is here."""
    own = Manifest.objects.filter(repository=repository)
    parents = ManifestChild.objects.filter(manifest__repository=repository, digest=OuterRef("digest"))
    subjects = own.filter(digest=OuterRef("subject"))
    rows = own.filter(~Exists(Tag.objects.filter(manifest=OuterRef("pk"))), ~Exists(parents), ~Exists(subjects))
    found = list(rows.order_by("-pushed_at", "-id").values_list("digest", "pushed_at", "pulled_at"))
    running = _running(repository.full_name, [digest for digest, _, _ in found])
    return [
        Candidate(tag="", digest=digest, pushed_at=pushed, pulled_at=pulled, holders=tuple(running.get(digest, ())))
        for digest, pushed, pulled in found
    ]


def _running(repository: str, digests: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for start in range(0, len(digests), CHUNK):
        found.update(holders(repository, digests[start : start + CHUNK]))
    return found


def repositories_of(policy: Any) -> Iterator[Repository]:
    """Where a policy (or a draft of one) is at work, by name."""
    rows = Repository.objects.select_related("collection", "namespace__collection").order_by("full_name")
    if policy.repository_id:
        yield from rows.filter(pk=policy.repository_id)
        return
    for row in rows.filter(namespace=policy.namespace_id):
        if matches(policy.repositories, row.name):
            yield row


def promotions() -> list[tuple[str, str, str]]:
    """(id, source, target) of every promotion policy that is on."""
    rows = Policy.objects.filter(kind=Policy.Kind.PROMOTION, enabled=True, repository__deleted_at=None)
    found = rows.values_list("id", "repository__full_name", "options")
    return [(key, name, options.get("target", "")) for key, name, options in found]
