"""Pages of repositories."""

from __future__ import annotations

import json
import shlex
from typing import Any

from django.core.paginator import Paginator
from django.db.models import Count
from django.urls import reverse

from agent.protocol.errors import NotFound
from agent.protocol.oci import MEDIA_DOCKER_CONFIG, MEDIA_OCI_CONFIG, parse_manifest
from controlplane.api import access
from controlplane.console.pages import AUTHENTICATED, Page
from registry.actions.manifests import delete_tag
from registry.actions.repositories import create_repository, delete_repository
from registry.details import read_config
from registry.models import Manifest, Repository, Tag, TagChange

PER_PAGE = 100
IMAGE_CONFIGS = (MEDIA_OCI_CONFIG, MEDIA_DOCKER_CONFIG)  # what makes a manifest a plain image, not an artifact


def visible_repository(page: Page, name: str) -> Repository:
    row = access.visible(page.actor, Repository.objects.select_related("namespace", "collection")).filter(full_name=name).first()
    if row is None:
        raise NotFound("There is no such repository, or you may not see it.")
    return row


def _line(words: Any) -> str:
    """An argument list as a shell would read it. What an image's configuration has there is anybody's guess."""
    return shlex.join(map(str, words)) if isinstance(words, list) else str(words or "")


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


class RepositoryDetail(Page):
    operation = {"get": "Repository View", "post": "Repository Update"}
    template = "registry/repository.html"
    current = "repositories"

    def context(self) -> dict[str, Any]:
        row = visible_repository(self, self.kwargs["name"])
        tags = Tag.objects.filter(repository=row).select_related("manifest").order_by("-pushed_at")
        newest = tags.first()
        return {
            "reference": f"{row.full_name}:{newest.name}" if newest else "",
            "repository": row,
            "title": row.full_name,
            "page": Paginator(tags, PER_PAGE).get_page(self.request.GET.get("page")),
            "host": self.request.get_host(),
            "history": TagChange.objects.filter(repository=row)[:10],
            "may_delete_tags": self.may("Repository Tag Delete", row),
            "may_delete": self.may("Repository Delete", row),
        }

    def act_untag(self) -> None:
        row = visible_repository(self, self.kwargs["name"])
        self.require(row, operation="Repository Tag Delete")
        tag = self.request.POST.get("tag", "")
        delete_tag(self.actor, row.full_name, tag)
        self.done(f"Tag {tag} was removed; the image it named can still be pulled by digest.")

    def act_remove(self) -> str:
        row = visible_repository(self, self.kwargs["name"])
        self.require(row, operation="Repository Delete")
        delete_repository(self.actor, row)
        self.done(f"Repository {row.full_name} was removed.")
        return reverse("repositories")


class ManifestDetail(Page):
    operation = "Repository View"
    template = "registry/manifest.html"
    current = "repositories"

    def context(self) -> dict[str, Any]:
        row = visible_repository(self, self.kwargs["name"])
        self.require(row)
        manifest = Manifest.objects.filter(repository=row, digest=self.kwargs["digest"]).first()
        if manifest is None:
            raise NotFound("There is no such image in this repository.")
        parsed = parse_manifest(bytes(manifest.content), manifest.media_type)
        config = read_config(parsed.config)
        history = [item for item in config.get("history", []) if isinstance(item, dict)]
        steps = iter([item for item in history if not item.get("empty_layer")])
        layers = [{"layer": layer, "step": next(steps, {}).get("created_by", "")} for layer in parsed.layers]
        return {
            "repository": row,
            "manifest": manifest,
            "parsed": parsed,
            "title": f"{row.full_name}@{manifest.digest[7:19]}",
            "tags": list(manifest.tags.values_list("name", flat=True)),
            "layers": layers,
            "run": config.get("config", {}),
            "entrypoint": _line(config.get("config", {}).get("Entrypoint")),
            "command": _line(config.get("config", {}).get("Cmd")),
            "artifact": "" if manifest.artifact_type in IMAGE_CONFIGS else manifest.artifact_type,
            "config": json.dumps(config, indent=2, ensure_ascii=False) if config else "",
            "raw": bytes(manifest.content).decode("utf-8", "replace"),
            "host": self.request.get_host(),
            "referrers": Manifest.objects.filter(repository=row, subject=manifest.digest),
        }
