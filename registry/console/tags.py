"""The tab Tags: a repository's first page, and the acts in its head."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.urls import reverse

from registry.actions.manifests import delete_tag
from registry.actions.repositories import delete_repository
from registry.artifacts import KINDS, kind_of_row, pull_commands
from registry.console.tabs import RepositoryPage
from registry.models import Tag, TagChange
from registry.queries.tags import listed

PER_PAGE = 100
MOVES = 5  # of tags, beside the list; History has all of them


def _commands(host: str, name: str, tag: Tag) -> list[dict[str, str]]:
    kind = kind_of_row(tag.manifest.media_type, tag.manifest.artifact_type, tag.name)
    return pull_commands(kind, host, name, tag.name)[:1]


class Tags(RepositoryPage):
    operation = {"get": "Repository View", "post": "Repository Tag Delete"}
    template = "registry/repository.html"
    tab = "tags"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        text = self.request.GET.get("q", "").strip()
        tags = listed(row).order_by("-pushed_at", "-pk")
        newest = tags.first()
        if text:
            tags = tags.filter(name__icontains=text)
        page = Paginator(tags, PER_PAGE).get_page(self.request.GET.get("page"))
        for tag in page:
            kind = kind_of_row(tag.manifest.media_type, tag.manifest.artifact_type, tag.name)
            tag.kind_text = "" if kind == "image" else KINDS[kind]
        return {
            "commands": _commands(self.request.get_host(), row.full_name, newest) if newest else [],
            "page": page,
            "q": text,
            "filters": urlencode({"q": text}) + "&" if text else "",
            "names": [tag.name for tag in page],
            "history": TagChange.objects.filter(repository=row)[:MOVES],
            "may_delete_tags": self.may("Repository Tag Delete", row),
        }

    def act_untag(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Tag Delete")
        tag = self.request.POST.get("tag", "")
        delete_tag(self.actor, row.full_name, tag, force="force" in self.request.POST)
        self.done(f"Tag {tag} was removed; the image it named can still be pulled by digest.")

    def act_remove(self) -> str:
        row = self.repository
        self.require(row, operation="Repository Delete")
        delete_repository(self.actor, row, force="force" in self.request.POST)
        self.done(f"Repository {row.full_name} was removed.")
        return reverse("repositories")
