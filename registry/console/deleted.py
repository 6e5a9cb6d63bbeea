"""Deleted repositories, for those whose namespace they were in: until when they can return, and the way back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.urls import reverse

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.console.pages import Page
from registry.actions import trash
from registry.actions.repositories import forget_repository, restore_repository
from registry.limits import limit
from registry.models import Namespace, Repository
from registry.queries.access import owned_namespaces

PER_PAGE = 100


class DeletedRepositories(Page):
    operation = "Repository Delete"
    template = "registry/deleted.html"
    title = "Deleted repositories"
    current = "repositories"

    def _rows(self) -> QuerySet[Repository]:
        access.visible(self.actor, Repository.objects.none(), "Repository Delete")  # what decides is the namespace
        own = owned_namespaces(self.actor, Namespace.objects.all())
        rows = Repository.everything.filter(namespace__in=own, deleted_at__gt=trash.window_start())
        return rows.order_by("-deleted_at", "id")

    def context(self) -> dict[str, Any]:
        page = Paginator(self._rows(), PER_PAGE).get_page(self.request.GET.get("page"))
        window = timedelta(seconds=limit("UNDO_WINDOW"))
        return {
            "page": page,
            "rows": [(row, row.deleted_at + window) for row in page if row.deleted_at],
            "undo_days": limit("UNDO_WINDOW") // 86400,
        }

    def _named(self) -> str:
        key = self._rows().filter(pk=self.request.POST.get("repository", "")).values_list("pk", flat=True).first()
        if key is None:
            raise NotFound("There is no such deleted repository in a namespace of yours.")
        return key

    def act_forget(self) -> None:
        forget_repository(self.actor, self._named())
        self.done("It is gone for good; what nothing else needs of it goes with the next garbage collection.")

    def act_undo(self) -> str:
        row, _, left = restore_repository(self.actor, self._named())
        lost = f", without {left} of its grants: whom they were for is gone, or their folder is new" if left else ""
        self.done(f"Repository {row.full_name} is back with its images and the rights given on it{lost}.")
        return reverse("repository", args=[row.full_name])
