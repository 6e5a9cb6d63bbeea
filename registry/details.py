"""A manifest for people: its layers with what made them, its config, the images of an index, where it is tagged."""

from __future__ import annotations

import json
from typing import Any

from agent.protocol.jsontext import unstorable
from agent.protocol.oci import Descriptor, parse_manifest
from agent.protocol.oci import Manifest as Document
from registry.models import Manifest
from registry.storage import open_store

MAX_CONFIG_BYTES = 4 << 20
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
    """Everything that a page or `wharf repo inspect` shows of one manifest."""
    document = parse_manifest(bytes(row.content), row.media_type)
    config = read_config(document.config)
    history = _history(config, document)
    return {
        "digest": row.digest,
        "media_type": row.media_type,
        "artifact_type": row.artifact_type,
        "size": row.size,
        "total_size": row.total_size,
        "platforms": row.platforms,
        "subject": row.subject,
        "annotations": dict(document.annotations),
        "pushed_by": row.pushed_by,
        "pushed_at": row.pushed_at,
        "tags": sorted(row.tags.values_list("name", flat=True)),
        "created": config.get("created"),
        "author": str(config.get("author") or ""),
        "config": _run_config(config),
        "layers": [_layer(item) for item in document.layers],
        "history": history,
        "images": [{**_layer(child), "platform": str(child.platform or "")} for child in document.manifests],
    }


def _layer(item: Descriptor) -> dict[str, Any]:
    return {"digest": str(item.digest), "media_type": item.media_type, "size": item.size, "annotations": dict(item.annotations)}


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
