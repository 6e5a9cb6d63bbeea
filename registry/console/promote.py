"""A tag is promoted by hand."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from agent.protocol.oci import check_name, check_tag
from controlplane.api import access
from registry.actions.promotion import promote_by_hand
from registry.console.tabs import RepositoryPage
from registry.models import Repository, Tag

OFFERED = 500


class Promote(RepositoryPage):
    operation = "Repository Pull"
    template = "registry/promote.html"
    tab = "tags"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        targets = access.visible(self.actor, Repository.objects.exclude(pk=row.pk), "Repository Push")
        return {
            "names": list(Tag.objects.filter(repository=row).order_by("-pushed_at").values_list("name", flat=True)[:OFFERED]),
            "chosen": self.request.GET.get("tag", ""),
            "targets": list(targets.order_by("full_name").values_list("full_name", flat=True)[:OFFERED]),
        }

    def act_promote(self) -> str:
        row, data = self.repository, self.request.POST
        self.require(row, operation="Repository Pull")
        tag = check_tag(data.get("tag", ""))
        target = check_name(data.get("target", "").strip())
        renamed = check_tag(data.get("target_tag", "").strip() or tag)
        if promote_by_hand(self.actor, row, tag, target, renamed):
            self.done(f"{target}:{renamed} is the image that {tag} names here.")
        else:
            self.done(f"{target}:{renamed} named this image already.")
        return reverse("repository", args=[row.full_name])
