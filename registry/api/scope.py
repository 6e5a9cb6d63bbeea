"""The base of routes below one repository."""

from __future__ import annotations

from typing import Any

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.api.views import ApiView
from registry.models import Repository


class OfRepository(ApiView):
    """`self.repository()` finds the one in the path and asks for this method's operation on it."""

    allow_anonymous = True  # public repositories are for everybody; `visible` and `require` decide
    pagination_class: Any = None
    queryset: Any = Repository.objects.none()

    def repository(self) -> Repository:
        """Raises NotFound for what the caller may not see."""
        rows = access.visible(self.actor, Repository.objects.select_related("collection", "namespace"))
        row = rows.filter(pk=self.kwargs["pk"]).first()
        if row is None:
            raise NotFound("There is no such repository, or you may not see it.")
        self.require(row)
        return row
