"""The list of repositories."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.urls import reverse

from controlplane.api import access
from controlplane.console.pages import AUTHENTICATED, Page
from registry.actions.repositories import create_repository
from registry.models import Repository
from registry.queries import listing, switches
from registry.queries.labels import parse_labels

PER_PAGE = 100
# what a column's head says -> (what it sorts by, is the largest first the natural order?)
COLUMNS = (
    ("Name", "name", False, ""),
    ("Visibility", "", False, "optional"),
    ("Tags", "tags", True, "number optional"),
    ("Pulls", "pulls", True, "number"),
    ("Pushes", "pushes", True, "number optional"),
    ("Size", "size", True, "number optional"),
    ("Last push", "pushed", True, ""),
)


class Repositories(Page):
    operation = AUTHENTICATED  # `visible` says which; public ones are for everybody
    template = "registry/repositories.html"
    title = "Repositories"
    current = "repositories"

    def context(self) -> dict[str, Any]:
        query = self.request.GET
        text, label = query.get("q", "").strip(), query.get("label", "").strip()
        visibility = query.get("visibility", "")
        sort = query.get("sort", "name")
        if sort.removeprefix("-") not in listing.SORTS:
            sort = "name"
        rows = listing.search(listing.labelled(access.visible(self.actor, listing.listed()), [label] if label else []), text)
        if visibility in Repository.Visibility.values:
            rows = rows.filter(visibility=visibility)
        kept = {"q": text, "label": label, "visibility": visibility, "sort": "" if sort == "name" else sort}
        kept = {key: value for key, value in kept.items() if value}
        return {
            "page": Paginator(rows.order_by(*listing.ordering(sort)), PER_PAGE).get_page(query.get("page")),
            "q": text,
            "label": label,
            "visibility": visibility,
            "heads": [_head(column, sort, kept) for column in COLUMNS],
            "sort": sort,
            "narrowed": bool(text or label or visibility),
            "filters": f"{urlencode(kept)}&" if kept else "",
            "create_on_push": switches.create_on_push(),
            "host": self.request.get_host(),
        }

    def act_create(self) -> str:
        data = self.request.POST
        row = create_repository(
            self.actor,
            data.get("name", "").strip(),
            visibility=data.get("visibility", "private"),
            description=data.get("description", ""),
            labels=parse_labels(data.get("labels", "")),
        )
        self.done(f"Repository {row.full_name} is there.")
        return reverse("repository", args=[row.full_name])


def _head(column: tuple[str, str, bool, str], sort: str, kept: dict[str, str]) -> dict[str, str]:
    """A column's head: where a click leads, and how the list is sorted by it now."""
    title, key, descending, css = column
    if not key:
        return {"title": title, "css": css, "url": "", "sorted": ""}
    now = sort.removeprefix("-") == key
    following = f"-{key}" if (not sort.startswith("-") if now else descending) else key
    url = "?" + urlencode({**kept, "sort": following})
    return {
        "title": title,
        "css": css,
        "url": url,
        "sorted": ("descending" if sort.startswith("-") else "ascending") if now else "",
    }
