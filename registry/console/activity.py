"""The tab Activity: who did what in a repository, when."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator

from registry.console.tabs import RepositoryPage
from registry.queries import activity

PER_PAGE = 50


class Activity(RepositoryPage):
    operation = "Repository View"
    template = "registry/activity.html"
    tab = "activity"

    def tab_context(self) -> dict[str, Any]:
        kind, who = self.request.GET.get("kind", ""), self.request.GET.get("who", "").strip()
        rows = activity.narrowed(activity.of_repository(self.actor, self.repository), kind, who)
        page = Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page"))
        kept = {key: value for key, value in (("kind", kind), ("who", who)) if value}
        return {
            "page": page,
            "lines": [(event, activity.who(event), activity.sentence(event)) for event in activity.named(page)],
            "groups": list(activity.GROUPS),
            "kind": kind,
            "who": who,
            "filters": urlencode(kept) + "&" if kept else "",
        }
