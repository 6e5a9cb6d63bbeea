"""The page of one manifest, for what it is; and two of them side by side."""

from __future__ import annotations

import json
import shlex
from itertools import groupby
from typing import Any

from django.core.paginator import Paginator

from agent.protocol.errors import NotFound
from agent.protocol.oci import parse_manifest
from controlplane.console.pages import Page
from registry.artifacts import KINDS, kind_of_row, pull_commands
from registry.compare import compare
from registry.console.tabs import visible_repository
from registry.details import describe, find_manifest, read_config
from registry.models import Manifest, Repository, Tag
from registry.running import running

_ORDER = ("signature", "attestation", "sbom")  # of the referrers; what is not named comes after
COMPARED = 500  # tags that the form offers


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
        image = describe(manifest)
        run = image["config"]
        target = image["tags"][0] if image["tags"] else manifest.digest
        document = parse_manifest(bytes(manifest.content), manifest.media_type)
        config = read_config(document.config)
        where, hidden = running(self.actor, [manifest.digest, *image["indexes"]])
        return {
            "repository": row,
            "manifest": manifest,
            "image": image,
            "kind_text": KINDS[image["kind"]],
            "title": f"{row.full_name}@{manifest.digest.partition(':')[2][:12]}",
            "heading": ", ".join(image["tags"]) or "untagged",
            "platforms": [child for child in image["images"] if not child["attests"]],
            "attestations": [child for child in image["images"] if child["attests"]],
            "run": {name: run.get(name) for name in ("User", "WorkingDir", "StopSignal")},
            "entrypoint": _line(run.get("Entrypoint")),
            "command": _line(run.get("Cmd")),
            "env": run.get("Env") if isinstance(run.get("Env"), list) else [],
            "labels": sorted(run["Labels"].items()) if isinstance(run.get("Labels"), dict) else [],
            "ports": sorted(run["ExposedPorts"]) if isinstance(run.get("ExposedPorts"), dict) else [],
            "annotations": sorted(image["annotations"].items()),
            "referrers": _grouped(image["referrers"]),
            "places": where,
            "hidden": hidden,
            "commands": pull_commands(image["kind"], self.request.get_host(), row.full_name, target),
            "is_image": image["kind"] in {"image", "index"},
            "config": json.dumps(config, indent=2, ensure_ascii=False) if config else "",
            "raw": bytes(manifest.content).decode("utf-8", "replace"),
            "others": _comparable(row, manifest),
        }


def _comparable(repository: Repository, manifest: Manifest) -> list[str]:
    """Tags of other images and indexes, newest first."""
    rows = Tag.objects.filter(repository=repository).exclude(manifest=manifest).order_by("-pushed_at")
    found = rows.values_list("name", "manifest__media_type", "manifest__artifact_type")[:COMPARED]
    return [
        name for name, media_type, artifact_type in found if kind_of_row(media_type, artifact_type, name) in {"image", "index"}
    ]


def _grouped(referrers: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """[("Signature", [...]), ...]"""

    def rank(item: dict[str, Any]) -> int:
        return _ORDER.index(item["kind"]) if item["kind"] in _ORDER else len(_ORDER)

    kinds = sorted(referrers, key=lambda item: (rank(item), item["kind"]))
    return [(KINDS[kind], list(items)) for kind, items in groupby(kinds, key=lambda item: item["kind"])]


class Compare(Page):
    operation = "Repository Pull"
    template = "registry/compare.html"
    current = "repositories"

    def context(self) -> dict[str, Any]:
        row = visible_repository(self, self.kwargs["name"])
        self.require(row)
        sides = {side: self.request.GET.get(side, "") for side in ("before", "after")}
        both = [describe(find_manifest(row, target)) for target in sides.values()] if all(sides.values()) else []
        tags = Tag.objects.filter(repository=row).order_by("-pushed_at").values_list("name", flat=True)
        return {
            "repository": row,
            "title": f"Compare in {row.full_name}",
            **sides,
            "names": list(Paginator(tags, COMPARED).get_page(1)),
            "result": compare(*both) if both else None,
        }
