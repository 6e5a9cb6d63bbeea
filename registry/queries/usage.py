"""How much is stored for whom: one statement, so that the figures are of one moment and add up.

Of a scope (a repository, a namespace, the registry):

    logical   each repository's blobs once: a namespace's is the sum of its repositories', the registry's of its namespaces'
    stored    each blob of the scope once: what its disk holds for it
    unique    of `stored`, what no other scope of its kind holds: what goes when the scope goes
    shared    stored - unique

So the registry's `stored` is the sum of its namespaces' `unique` and of what several namespaces share, each such blob once; and
its disk holds `stored` and `unlinked`: blobs that no repository holds, which are the collector's after their grace.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from django.db import connection
from django.db.models import Count as Number
from django.db.models import Exists, OuterRef, Sum

from registry.models import Blob, Namespace, Repository, RepositoryBlob

# SQLite and PostgreSQL; windows cannot count distinct values, so "in one namespace" is: the least is the greatest
_STATEMENT = f"""
    WITH link AS (
        SELECT rb.repository_id, r.namespace_id, rb.blob_id, b.size,
               COUNT(*) OVER (PARTITION BY rb.blob_id) AS holders,
               MIN(r.namespace_id) OVER (PARTITION BY rb.blob_id) AS least,
               MAX(r.namespace_id) OVER (PARTITION BY rb.blob_id) AS greatest,
               ROW_NUMBER() OVER (PARTITION BY rb.blob_id, r.namespace_id ORDER BY rb.id) AS in_namespace,
               ROW_NUMBER() OVER (PARTITION BY rb.blob_id ORDER BY rb.id) AS in_registry
        FROM {RepositoryBlob._meta.db_table} rb
        JOIN {Repository._meta.db_table} r ON r.id = rb.repository_id
        JOIN {Blob._meta.db_table} b ON b.id = rb.blob_id
    )
    SELECT n.name, r.full_name, COUNT(l.blob_id), COALESCE(SUM(l.size), 0),
           COALESCE(SUM(CASE WHEN l.holders = 1 THEN l.size ELSE 0 END), 0),
           COALESCE(SUM(CASE WHEN l.in_namespace = 1 THEN 1 ELSE 0 END), 0),
           COALESCE(SUM(CASE WHEN l.in_namespace = 1 THEN l.size ELSE 0 END), 0),
           COALESCE(SUM(CASE WHEN l.in_namespace = 1 AND l.least = l.greatest THEN l.size ELSE 0 END), 0),
           COALESCE(SUM(CASE WHEN l.in_registry = 1 THEN 1 ELSE 0 END), 0),
           COALESCE(SUM(CASE WHEN l.in_registry = 1 THEN l.size ELSE 0 END), 0)
    FROM {Repository._meta.db_table} r
    JOIN {Namespace._meta.db_table} n ON n.id = r.namespace_id
    LEFT JOIN link l ON l.repository_id = r.id
    GROUP BY n.name, r.full_name
    UNION ALL
    SELECT '', '', COUNT(*), COALESCE(SUM(b.size), 0), 0, 0, 0, 0, 0, 0
    FROM {Blob._meta.db_table} b
    WHERE NOT EXISTS (SELECT 1 FROM {RepositoryBlob._meta.db_table} rb WHERE rb.blob_id = b.id)
"""  # noqa: S608  # table names, no parameters


@dataclass(slots=True)
class Amount:
    """Of one scope; bytes, except for the two counts."""

    repositories: int = 0
    blobs: int = 0
    logical: int = 0
    stored: int = 0
    unique: int = 0


@dataclass(slots=True)
class Count:
    """Everything at one moment. `unlinked` and `unlinked_blobs` are what no repository holds."""

    registry: Amount = field(default_factory=Amount)
    namespaces: dict[str, Amount] = field(default_factory=lambda: defaultdict(Amount))
    repositories: dict[str, Amount] = field(default_factory=dict)
    unlinked: int = 0
    unlinked_blobs: int = 0


def count() -> Count:
    """Reads every link once: a second or so for a million."""
    found = Count()
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT)
        for namespace, name, blobs, size, *sums in cursor.fetchall():
            if not name:
                found.unlinked, found.unlinked_blobs = int(size), int(blobs)
                continue
            alone, own_blobs, own, own_alone, all_blobs, whole = map(int, sums)
            there = 0 if name.startswith("~") else 1  # what is deleted and can be brought back takes room, but is no repository
            found.repositories[name] = Amount(there, int(blobs), int(size), int(size), alone)
            _add(found.namespaces[namespace], there, own_blobs, int(size), own, own_alone)
            _add(found.registry, there, all_blobs, int(size), whole, whole)
    return found


def _add(total: Amount, repositories: int, blobs: int, logical: int, stored: int, unique: int) -> None:
    total.repositories += repositories
    total.blobs += blobs
    total.logical += logical
    total.stored += stored
    total.unique += unique


def of_repository(repository: Repository) -> Amount:
    """One repository's, as of now: two indexed sums."""
    links = RepositoryBlob.objects.filter(repository=repository)
    whole = links.aggregate(blobs=Number("pk"), size=Sum("blob__size"))
    others = RepositoryBlob.objects.filter(blob=OuterRef("blob")).exclude(repository=repository)
    alone = links.filter(~Exists(others)).aggregate(size=Sum("blob__size"))["size"] or 0
    return Amount(1, whole["blobs"], whole["size"] or 0, whole["size"] or 0, alone)
