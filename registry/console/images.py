"""The page of one manifest."""

from __future__ import annotations

import json
import shlex
from typing import Any

from agent.protocol.errors import NotFound
from agent.protocol.oci import MEDIA_DOCKER_CONFIG, MEDIA_OCI_CONFIG, parse_manifest
from controlplane.console.pages import Page
from registry.console.tabs import visible_repository
from registry.details import read_config
from registry.models import Manifest

IMAGE_CONFIGS = (MEDIA_OCI_CONFIG, MEDIA_DOCKER_CONFIG)  # what makes a manifest a plain image, not an artifact


def _line(words: Any) -> str:
    """An argument list as a shell would read it. What an image's configuration has there is anybody's guess."""
    return shlex.join(map(str, words)) if isinstance(words, list) else str(words or "")


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
