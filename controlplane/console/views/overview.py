"""The first page, and the search over everything."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from controlplane.api import access
from controlplane.console import overview
from controlplane.console.overview import Hit
from controlplane.console.pages import AUTHENTICATED, Page
from controlplane.events.models import Event
from controlplane.jobs.models import Job, JobState
from controlplane.users.models import User

RECENT = 12
MIN_QUERY = 2


class Overview(Page):
    operation = AUTHENTICATED
    template = "console/overview.html"
    title = "Overview"
    current = "overview"

    def context(self) -> dict[str, Any]:
        needs = overview.attention(self.actor)
        return {
            "needs": needs,
            "worst": "failed" if any(need.state == "failed" for need in needs) else "degraded" if needs else "running",
            "tiles": overview.tiles(self.actor),
            "charts": overview.charts(self.actor),
            "recent": access.visible(self.actor, Event.objects.all()).order_by("-id")[:RECENT],
            "jobs": access.visible(self.actor, Job.objects.filter(state=JobState.RUNNING))[:5],
        }


class Search(Page):
    operation = AUTHENTICATED
    template = "console/search.html"
    title = "Search"

    def context(self) -> dict[str, Any]:
        text = self.request.GET.get("q", "").strip()[:200]
        hits = [*overview.find(self.actor, text), *self._users(text)] if len(text) >= MIN_QUERY else []
        return {"query": text, "hits": hits, "short": len(text) < MIN_QUERY}

    def _users(self, text: str) -> list[Hit]:
        rows = access.visible(self.actor, User.objects.filter(username__icontains=text))[:20]
        return [Hit("user", user.username, user.full_name, f"{reverse('users')}?q={user.username}") for user in rows]
