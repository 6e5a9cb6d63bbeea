"""A manifest for people: its layers with what made them, its config, the images of an index, where it is tagged."""

from __future__ import annotations

import json
from typing import Any

from django.db.models import Q

from agent.protocol.jsontext import unstorable
from agent.protocol.oci import Descriptor, parse_manifest
from agent.protocol.oci import Manifest as Document
from registry import artifacts
from registry.errors import ManifestUnknown
from registry.models import Manifest, Repository, Tag
from registry.queries.tags import size_of_images
from registry.storage import open_store

MAX_CONFIG_BYTES = 4 << 20
MAX_PARENTS = 20
MAX_REFERRERS = 200
_RUN_FIELDS = ("Entrypoint", "Cmd", "Env", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels", "StopSignal", "Healthcheck")


def read_config(config: Descriptor | None, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The config as JSON; {} when there is none, it is too large, or it is no sane JSON object (artifacts may carry anything)."""
    if config is None or not 0 < config.size <= limit:
        return {}
    blob = open_store().open(config.digest)
    if blob is None:
        return {}
    try:
        text = blob.read_at(0, config.size).decode()
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    finally:
        blob.close()
    return data if isinstance(data, dict) and not unstorable(text, data) else {}


def platforms_of(document: Document) -> list[str]:
    """["linux/amd64"] of an image by its config, of an index by its children."""
    if document.is_index:
        return sorted({str(child.platform) for child in document.manifests if child.platform and child.platform.os != "unknown"})
    config = read_config(document.config)
    if not config.get("os") or not config.get("architecture"):
        return []
    return ["/".join(str(config[key]) for key in ("os", "architecture", "variant") if config.get(key))]


def describe(row: Manifest) -> dict[str, Any]:
    """Everything that a page, REST or `wharf repo inspect` shows of one manifest."""
    document = parse_manifest(bytes(row.content), row.media_type)
    parents = _parents(row)
    kind = artifacts.kind_of(document, next((child for child in parents.values() if child), None))
    config = read_config(document.config)
    history = _history(config, document)
    chart = artifacts.chart(config) if kind == "chart" else None
    return {
        "digest": row.digest,
        "media_type": row.media_type,
        "kind": kind,
        "artifact_type": row.artifact_type,
        "size": row.size,
        "total_size": row.total_size + (size_of_images(row) if document.is_index else 0),
        "platforms": row.platforms,
        "subject": row.subject,
        "annotations": dict(document.annotations),
        "pushed_by": row.pushed_by,
        "pushed_at": row.pushed_at,
        "tags": sorted(row.tags.values_list("name", flat=True)),
        "created": config.get("created"),
        "author": str(config.get("author") or ""),
        "config_digest": str(document.config.digest) if document.config else "",
        "config": _run_config(config),
        "layers": _layers(config, document, history),
        "history": history,
        "images": [_image(child) for child in document.manifests],
        "indexes": sorted(parents),
        "referrers": _referrers(row),
        "files": artifacts.files(document.layers, chart) if kind not in {"image", "index"} else [],
        "chart": chart,
    }


def find_manifest(repository: Repository, target: str) -> Manifest:
    """By tag or digest. Raises ManifestUnknown."""
    rows = Manifest.objects.filter(repository=repository)
    row = (rows.filter(digest=target) if ":" in target else rows.filter(tags__name=target)).first()
    if row is None:
        raise ManifestUnknown(f"{repository.full_name} has no {target or 'image without a name'}.")
    return row


def indexes_of(row: Manifest) -> list[str]:
    """Digests of the indexes in its repository that hold it."""
    rows = Manifest.objects.filter(repository_id=row.repository_id, children__digest=row.digest)
    return list(rows.values_list("digest", flat=True)[:MAX_PARENTS])


def _layer(item: Descriptor) -> dict[str, Any]:
    return {"digest": str(item.digest), "media_type": item.media_type, "size": item.size, "annotations": dict(item.annotations)}


def _image(child: Descriptor) -> dict[str, Any]:
    attests = child.annotations.get(artifacts.REFERENCE_DIGEST, "") if artifacts.is_attestation(child) else ""
    platform = "" if child.platform is None or child.platform.os == "unknown" else str(child.platform)
    return {**_layer(child), "platform": platform, "attests": attests}


def _layers(config: dict[str, Any], document: Document, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each layer with the digest of its uncompressed tar (image-spec, config, "rootfs") and what made it."""
    rootfs = config.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    diff_ids = [str(item) for item in listed] if isinstance(listed, list) else []
    steps = [step["created_by"] for step in history if step["digest"]]
    return [
        {
            **_layer(layer),
            "diff_id": diff_ids[number] if number < len(diff_ids) else "",
            "created_by": steps[number] if number < len(steps) else "",
        }
        for number, layer in enumerate(document.layers)
    ]


def _parents(row: Manifest) -> dict[str, dict[str, str] | None]:
    """The indexes of the repository that hold this manifest -> the annotations it has there."""
    found: dict[str, dict[str, str] | None] = {}
    rows = Manifest.objects.filter(repository_id=row.repository_id, children__digest=row.digest).order_by("-pushed_at")
    for parent in rows[:MAX_PARENTS]:
        document = parse_manifest(bytes(parent.content), parent.media_type)
        found[parent.digest] = next((dict(c.annotations) for c in document.manifests if str(c.digest) == row.digest), None)
    return found


def _referrers(row: Manifest) -> list[dict[str, Any]]:
    """What refers to this manifest: by its subject, or by cosign's tag `<algorithm>-<hex>.sig`."""
    old = [f"{row.digest.replace(':', '-')}.{end}" for end in ("sig", "att", "sbom")]
    rows = Manifest.objects.filter(repository_id=row.repository_id)
    rows = rows.filter(
        Q(subject=row.digest) | Q(pk__in=Tag.objects.filter(repository_id=row.repository_id, name__in=old).values("manifest_id"))
    )
    return [
        {
            "digest": item.digest,
            "kind": artifacts.kind_of(parse_manifest(bytes(item.content), item.media_type)),
            "artifact_type": item.artifact_type,
            "size": item.total_size,
            "annotations": item.annotations,
            "pushed_by": item.pushed_by,
            "pushed_at": item.pushed_at,
        }
        for item in rows.order_by("-pushed_at", "pk")[:MAX_REFERRERS]
    ]


def _run_config(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("config")
    if not isinstance(inner, dict):
        return {}
    return {name: inner[name] for name in _RUN_FIELDS if inner.get(name)}


def _history(config: dict[str, Any], document: Document) -> list[dict[str, Any]]:
    """The steps of the build in order; those that made a layer carry its digest and size (image-spec, config, "history")."""
    steps = config.get("history")
    if not isinstance(steps, list):
        return []
    layers = iter(document.layers)
    result = []
    for step in steps:
        if not isinstance(step, dict):
            continue
        entry = {"created": step.get("created"), "created_by": str(step.get("created_by") or step.get("comment") or "")}
        layer = None if step.get("empty_layer") else next(layers, None)
        result.append({**entry, "digest": str(layer.digest) if layer else "", "size": layer.size if layer else 0})
    return result
