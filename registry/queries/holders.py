"""Who needs which image now."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils import timezone

from registry.models import Lease


def holders(digests: Iterable[str]) -> dict[str, list[str]]:
    """{"sha256:…": ["service/<id>", "task/<id>"]} of those among `digests` that are leased. One query."""
    found: dict[str, list[str]] = {}
    rows = Lease.objects.filter(Lease.valid(timezone.now()), digest__in=list(digests))
    for digest, holder in rows.values_list("digest", "holder").distinct().order_by("digest", "holder"):
        found.setdefault(digest, []).append(holder)
    return found
