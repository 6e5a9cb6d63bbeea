"""The tab Tags: a repository's first page, and the acts in its head."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.urls import reverse

from registry.actions.manifests import delete_tag
from registry.actions.repositories import delete_repository
from registry.console.tabs import RepositoryPage
from registry.models import Tag, TagChange

PER_PAGE = 100
MOVES = 10


class Tags(RepositoryPage):
    operation = {"get": "Repository View", "post": "Repository Tag Delete"}
    template = "registry/repository.html"
    tab = "tags"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        tags = (
            Tag.objects.filter(repository=row).select_related("manifest").defer("manifest__content").order_by("-pushed_at", "-pk")
        )
        newest = tags.first()
        return {
            "reference": f"{row.full_name}:{newest.name}" if newest else "",
            "page": Paginator(tags, PER_PAGE).get_page(self.request.GET.get("page")),
            "history": TagChange.objects.filter(repository=row)[:MOVES],
            "may_delete_tags": self.may("Repository Tag Delete", row),
        }

    def act_untag(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Tag Delete")
        tag = self.request.POST.get("tag", "")
        delete_tag(self.actor, row.full_name, tag)
        self.done(f"Tag {tag} was removed; the image it named can still be pulled by digest.")

    def act_remove(self) -> str:
        row = self.repository
        self.require(row, operation="Repository Delete")
        delete_repository(self.actor, row)
        self.done(f"Repository {row.full_name} was removed.")
        return reverse("repositories")
