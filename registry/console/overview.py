"""The registry's part of the overview and of the search."""

from __future__ import annotations

from django.db.models import Q, Sum
from django.urls import reverse

from controlplane.api import access
from controlplane.api.actor import Actor
from controlplane.console.overview import Attention, Hit, Tile
from controlplane.console.templatetags.wharf import size
from registry.models import Blob, Repository

FOUND = 20


def tiles(actor: Actor) -> list[Tile]:
    count = access.visible(actor, Repository.objects.all()).count()
    stored = Blob.objects.filter(state=Blob.State.LIVE).aggregate(total=Sum("size"))["total"] or 0
    note = f"{size(stored)} of blobs" if actor.is_admin else "that you may see"
    return [Tile("Repositories", str(count), note, reverse("repositories"))]


def attention(actor: Actor) -> list[Attention]:
    return []


def charts(actor: Actor) -> list[dict[str, str]]:
    return []


def find(actor: Actor, text: str) -> list[Hit]:
    wanted = Q(full_name__icontains=text) | Q(description__icontains=text)
    if text.startswith("sha256:"):
        wanted |= Q(manifests__digest__startswith=text)
    rows = access.visible(actor, Repository.objects.filter(wanted).distinct())
    return [
        Hit("repository", row.full_name, row.description, reverse("repository", args=[row.full_name])) for row in rows[:FOUND]
    ]
