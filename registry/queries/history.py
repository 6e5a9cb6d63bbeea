"""What tags named at a moment: the newest move of each tag up to then."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Max

from registry.models import Repository, TagChange


def tags_at(repository: Repository, at: datetime) -> dict[str, str]:
    """{tag: digest} as it stood at `at`, by name."""
    # Moves of one tag are numbered in the order of their commits: whoever moves it holds its row.
    until = TagChange.objects.filter(repository=repository, at__lte=at).order_by()
    last = until.values("tag").annotate(last=Max("id")).values("last")
    rows = TagChange.objects.filter(pk__in=last).exclude(after="").order_by("tag")
    return dict(rows.values_list("tag", "after"))
