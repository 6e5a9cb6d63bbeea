"""The frame of a repository's pages: one tab a page, each shown to whoever may do its operation there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.console.pages import Page
from registry.limits import limit
from registry.models import Repository
from registry.queries.access import quota_of


@dataclass(frozen=True, slots=True)
class Tab:
    """One page of a repository: `url_name` takes the repository's full name, `operation` is asked on the repository."""

    key: str
    title: str
    url_name: str
    operation: str = "Repository View"


TABS: list[Tab] = [
    Tab("tags", "Tags", "repository"),
    Tab("info", "Info", "repository-info"),
    Tab("activity", "Activity", "repository-activity"),
    Tab("history", "History", "repository-history"),
    Tab("policies", "Policies", "repository-policies", "Repository Policy"),
    Tab("webhooks", "Webhooks", "repository-webhooks", "Repository Policy"),
    Tab("mirrors", "Mirrors", "repository-mirrors", "Repository Policy"),
    Tab("access", "Access", "repository-access", "Repository Access"),
    Tab("settings", "Settings", "repository-settings", "Repository Update"),
]


def visible_repository(page: Page, name: str) -> Repository:
    """Raises NotFound for what does not exist or is not to be seen by who asks."""
    row = access.visible(page.actor, Repository.objects.select_related("namespace", "collection")).filter(full_name=name).first()
    if row is None:
        raise NotFound("There is no such repository, or you may not see it.")
    return row


class RepositoryPage(Page):
    """A tab: its template extends registry/repository_base.html and fills the block `tab` from `tab_context()`.

    `operation` is the tab's; it is required on the repository before anything is shown, and an `act_…` asks for its own.
    """

    operation: ClassVar[str | dict[str, str]] = "Repository View"
    current = "repositories"
    tab: ClassVar[str] = ""  # the key of its Tab

    @cached_property
    def repository(self) -> Repository:
        return visible_repository(self, self.kwargs["name"])

    def tab_context(self) -> dict[str, Any]:
        return {}

    def context(self) -> dict[str, Any]:
        row = self.repository
        shown = next(tab for tab in TABS if tab.key == self.tab)
        self.require(row, operation=shown.operation)
        may = {operation: self.may(operation, row) for operation in {tab.operation for tab in TABS}}
        return {
            "repository": row,
            "title": f"{row.full_name} · {shown.title}" if shown is not TABS[0] else row.full_name,
            "tab": self.tab,
            "tabs": [tab for tab in TABS if may[tab.operation]],
            "host": self.request.get_host(),
            "may_delete": self.may("Repository Delete", row),
            "quota": quota_of(self.actor, row.namespace),
            "undo_days": limit("UNDO_WINDOW") // 86400,
            **self.tab_context(),
        }
