"""The tabs Info (what a repository says of itself) and Settings (what its administrators change)."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from registry.actions.repositories import update_repository
from registry.console.tabs import RepositoryPage
from registry.markdown import render
from registry.models import Manifest, Tag
from registry.queries import usage
from registry.queries.labels import parse_labels


class Info(RepositoryPage):
    operation = "Repository View"
    template = "registry/info.html"
    tab = "info"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        amount = usage.of_repository(row)
        return {
            "readme": render(row.readme),
            "labels": list(row.labels.all()),
            "usage": amount,
            "shared": amount.stored - amount.unique,
            "tag_count": Tag.objects.filter(repository=row).count(),
            "manifest_count": Manifest.objects.filter(repository=row).count(),
            "may_update": self.may("Repository Update", row),
        }


class Settings(RepositoryPage):
    operation = "Repository Update"
    template = "registry/settings.html"
    tab = "settings"

    def tab_context(self) -> dict[str, Any]:
        return {"labels": "\n".join(map(str, self.repository.labels.all()))}

    def act_save(self) -> str:
        row = self.repository
        self.require(row)
        data = self.request.POST
        update_repository(
            self.actor,
            row,
            None,
            visibility=data.get("visibility", row.visibility),
            description=data.get("description", row.description).strip(),
            readme=data.get("readme", row.readme),
            sparse_indexes="sparse_indexes" in data,
            labels=parse_labels(data.get("labels", "").replace("\r", "") + "\n"),
        )
        self.done("Saved.")
        return reverse("repository-settings", args=[row.full_name])
