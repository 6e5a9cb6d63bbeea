"""The tabs Info (what a repository says of itself) and Settings (what its administrators change)."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from registry.actions.repositories import update_repository
from registry.console.tabs import RepositoryPage
from registry.markdown import render


class Info(RepositoryPage):
    operation = "Repository View"
    template = "registry/info.html"
    tab = "info"

    def tab_context(self) -> dict[str, Any]:
        return {"readme": render(self.repository.readme), "may_update": self.may("Repository Update", self.repository)}


class Settings(RepositoryPage):
    operation = "Repository Update"
    template = "registry/settings.html"
    tab = "settings"

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
        )
        self.done("Saved.")
        return reverse("repository-settings", args=[row.full_name])
