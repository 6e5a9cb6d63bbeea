"""Counting what is stored for whom, for lists, tiles and the chart."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from registry.models import Usage, UsageSample
from registry.queries import usage
from registry.queries.usage import Amount, Count

KEEP_SAMPLES = timedelta(days=90)


def recount() -> Count:
    """Replaces all rows of Usage by what is true now, and adds a sample.

    What was deleted and can be brought back is in its namespace's figures, but has no row of its own: nobody can name it.
    """
    now = timezone.now()
    with transaction.atomic():
        found = usage.count()
        amounts: list[tuple[str, str, Amount]] = [
            (Usage.Scope.REGISTRY, "", found.registry),
            *((Usage.Scope.NAMESPACE, name, amount) for name, amount in found.namespaces.items()),
            *((Usage.Scope.REPOSITORY, name, amount) for name, amount in found.repositories.items() if amount.repositories),
        ]
        Usage.objects.all().delete()
        Usage.objects.bulk_create([_row(*item, at=now) for item in amounts], batch_size=1000)
        UsageSample.objects.filter(at__lt=now - KEEP_SAMPLES).delete()
        UsageSample.objects.create(
            at=now,
            logical=found.registry.logical,
            stored=found.registry.stored,
            unlinked=found.unlinked,
            repositories=found.registry.repositories,
            blobs=found.registry.blobs + found.unlinked_blobs,
        )
    return found


def _row(scope: str, name: str, amount: Amount, at: datetime) -> Usage:
    return Usage(
        scope=scope,
        name=name,
        at=at,
        repositories=amount.repositories,
        blobs=amount.blobs,
        logical=amount.logical,
        stored=amount.stored,
        unique=amount.unique,
    )
