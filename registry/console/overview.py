"""The registry's part of the overview and of the search."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

from django.db.models import Sum
from django.urls import reverse
from django.utils import timezone

from controlplane.api import access
from controlplane.api.actor import Actor
from controlplane.console.overview import Attention, Hit, Tile
from controlplane.console.templatetags.wharf import size
from registry.models import Blob, Repository, Robot, Usage, UsageSample
from registry.queries import listing

FOUND = 20
SOON = timedelta(days=7)


def tiles(actor: Actor) -> list[Tile]:
    count = access.visible(actor, Repository.objects.all()).count()
    found = [Tile("Repositories", str(count), "that you may see", reverse("repositories"))]
    if actor.is_admin:
        stored = Blob.objects.filter(state=Blob.State.LIVE).aggregate(total=Sum("size"))["total"] or 0
        whole = Usage.objects.filter(scope=Usage.Scope.REGISTRY).first()
        note = f"for {size(whole.logical)} of content" if whole else "of blobs"
        found.append(Tile("Registry storage", size(stored), note, reverse("storage")))
    return found


def attention(actor: Actor) -> list[Attention]:
    if not actor.is_admin:
        return []
    soon = timezone.now() + SOON
    rows = Robot.objects.filter(disabled=False, expires_at__gt=timezone.now(), expires_at__lt=soon, last_used_at__isnull=False)
    return [
        Attention(f"Robot {row.full_name} expires within a week", f"{reverse('robots')}?q={quote(row.full_name)}")
        for row in rows[:FOUND]
    ]


def charts(actor: Actor) -> list[dict[str, str]]:
    if not actor.is_admin or UsageSample.objects.count() < 2:
        return []
    return [{"url": reverse("storage-chart"), "kind": "bytes", "label": "Storage of the registry"}]


def find(actor: Actor, text: str) -> list[Hit]:
    rows = listing.search(access.visible(actor, Repository.objects.order_by("full_name")), text)
    robots = access.visible(actor, Robot.objects.filter(full_name__icontains=text).order_by("full_name"))
    return [
        *(Hit("repository", row.full_name, row.description, reverse("repository", args=[row.full_name])) for row in rows[:FOUND]),
        *(
            Hit("robot", row.full_name, row.description, f"{reverse('robots')}?q={quote(row.full_name)}")
            for row in robots[:FOUND]
        ),
    ]
