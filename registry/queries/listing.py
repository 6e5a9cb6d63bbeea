"""Lists of repositories: what a search finds, by labels, in which order.

Quick with ten thousand of them: figures are worked out for the page's rows alone, and nothing is asked once a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from django.db.models import BigIntegerField, Count, DateTimeField, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from agent.protocol.errors import InvalidInput
from registry.models import Blob, Label, Manifest, Repository, RepositoryBlob, Tag, Usage

_DIGEST = re.compile(r"\A(?:(sha256|sha512):)?([0-9a-f]{7,128})\Z")
# what a list may be sorted by -> the column
SORTS = {
    "name": "full_name",
    "tags": "tag_count",
    "pulls": "pulls",
    "pushes": "pushes",
    "pushed": "active_at",
    "size": "stored_size",
    "created": "created_at",
}


def listed() -> QuerySet[Any]:
    """Repositories with `tag_count`, `active_at` (last push, else when it was made) and `stored_size` (as last counted).

    The figures are subqueries: the database works them out for the rows of a page alone, unless they are what is sorted by.
    """
    tags = Tag.objects.filter(repository=OuterRef("pk")).order_by().values("repository").annotate(n=Count("pk")).values("n")
    size = Usage.objects.filter(scope=Usage.Scope.REPOSITORY, name=OuterRef("full_name")).values("stored")
    rows = Repository.objects.select_related("namespace", "collection").prefetch_related("labels")
    return rows.annotate(
        tag_count=Coalesce(Subquery(tags, output_field=IntegerField()), 0),
        active_at=Coalesce(F("pushed_at"), F("created_at"), output_field=DateTimeField()),
        stored_size=Coalesce(Subquery(size, output_field=BigIntegerField()), 0),
    )


def ordering(sort: str) -> tuple[str, ...]:
    """ "-pulls" -> ("-pulls", "full_name"). Raises InvalidInput for what is no column."""
    column = SORTS.get(sort.removeprefix("-"))
    if column is None:
        raise InvalidInput(f"A list is not sorted by {sort!r} but by {', '.join(SORTS)}, with - before it for the largest first.")
    first = f"-{column}" if sort.startswith("-") else column
    return (first,) if column == "full_name" else (first, "full_name")


def labelled(rows: QuerySet[Any], labels: Iterable[str]) -> QuerySet[Any]:
    """Those with every one of `labels`: "team=web", or "team" for any value."""
    for text in labels:
        key, equals, value = text.partition("=")
        found = Label.objects.filter(key=key.strip())
        rows = rows.filter(pk__in=(found.filter(value=value.strip()) if equals else found).values("repository_id"))
    return rows


def search(rows: QuerySet[Any], text: str) -> QuerySet[Any]:
    """Those in which every word of `text` is part of the name, descriptions, labels, a tag, or begins a digest they hold."""
    for word in text.split()[:10]:
        rows = rows.filter(_matches(word))
    return rows


def _matches(word: str) -> Q:
    condition = Q(full_name__icontains=word) | Q(description__icontains=word) | Q(readme__icontains=word)
    labels = Label.objects.filter(Q(key__icontains=word) | Q(value__icontains=word))
    key, equals, value = word.partition("=")
    if equals:
        labels = Label.objects.filter(key=key, value__startswith=value)
    tags = Tag.objects.filter(name__icontains=word)
    condition |= Q(pk__in=labels.values("repository_id")) | Q(pk__in=tags.values("repository_id"))
    if found := _DIGEST.match(word.lower()):
        for algorithm in (found[1],) if found[1] else ("sha256", "sha512"):
            # a range, which the index answers on every database; a prefix with LIKE would scan
            between = {"digest__gte": f"{algorithm}:{found[2]}", "digest__lt": f"{algorithm}:{found[2]}g"}
            blobs = Blob.objects.filter(**between)
            condition |= Q(pk__in=Manifest.objects.filter(**between).values("repository_id"))
            condition |= Q(pk__in=RepositoryBlob.objects.filter(blob__in=blobs).values("repository_id"))
    return condition
