"""The tab Access: who may do what in a repository and why; giving, taking, and explaining it for one of them."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from agent.protocol.errors import WharfError
from controlplane.rbac.models import Role
from registry.actions.access import give, take
from registry.console.tabs import RepositoryPage
from registry.queries import explaining, sharing
from registry.queries.subjects import SUBJECTS

_BEYOND = ("None",)


class Access(RepositoryPage):
    operation = "Repository Access"
    template = "registry/access.html"
    tab = "access"

    def tab_context(self) -> dict[str, Any]:
        kind, name = self._asked()
        answers, problem = [], ""
        if name:
            try:
                answers = explaining.explained(self.repository, kind, name)
            except WharfError as error:
                problem = error.detail
        return {
            "rights": sharing.rights(self.repository),
            "levels": list(sharing.LEVELS),
            "roles": self._roles(),
            "kinds": SUBJECTS,
            "asked": name,
            "asked_kind": kind,
            "explainable": explaining.KINDS,
            "problem": problem,
            "answers": answers,
            "everything": self.actor.is_admin,
        }

    def _asked(self) -> tuple[str, str]:
        """(kind, name) of whom to explain; an address with ?user= from elsewhere is understood too."""
        query = self.request.GET
        kind = query.get("kind", "user")
        return kind, (query.get("name") or query.get("user", "")).strip()

    def _roles(self) -> list[str]:
        """What may be given besides the levels: to whoever is no administrator, roles about repositories alone."""
        rows = Role.objects.exclude(name__in=[*sharing.LEVELS.values(), *_BEYOND]).order_by("name")
        wide = self.actor.is_admin
        return [
            row.name
            for row in rows
            if row.operations.get("Repository") and (wide or set(row.operations) <= {"Repository", "Robot"})
        ]

    def act_give(self) -> str:
        self.require(self.repository)
        data = self.request.POST
        kind, name, role = data.get("kind", ""), data.get("name", "").strip(), data.get("role", "")
        give(self.actor, self.repository, kind, name, role, whole_namespace=data.get("where") == "namespace")
        self.done(f"{name} has {role} here from now on.")
        return self._here()

    def act_take(self) -> str:
        self.require(self.repository)
        take(self.actor, self.repository, self.request.POST.get("grant", ""))
        self.done("The right was taken away; it counts no more from the next request on.")
        return self._here()

    def _here(self) -> str:
        if not self.may("Repository Access", self.repository):  # one may take one's own away
            return reverse("repositories")
        return reverse("repository-access", args=[self.repository.full_name])
