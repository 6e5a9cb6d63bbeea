"""The list of repositories."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db.models import Count
from django.urls import reverse

from controlplane.api import access
from controlplane.console.pages import AUTHENTICATED, Page
from registry.actions.repositories import create_repository
from registry.models import Repository

PER_PAGE = 100


class Repositories(Page):
    operation = AUTHENTICATED  # `visible` says which; public ones are for everybody
    template = "registry/repositories.html"
    title = "Repositories"
    current = "repositories"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Repository.objects.annotate(tag_count=Count("tags")).order_by("full_name"))
        if text := self.request.GET.get("q", "").strip():
            rows = rows.filter(full_name__icontains=text)
        return {
            "page": Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page")),
            "q": text,
            "host": self.request.get_host(),
        }

    def act_create(self) -> str:
        data = self.request.POST
        row = create_repository(
            self.actor,
            data.get("name", "").strip(),
            visibility=data.get("visibility", "private"),
            description=data.get("description", ""),
        )
        self.done(f"Repository {row.full_name} is there.")
        return reverse("repository", args=[row.full_name])
