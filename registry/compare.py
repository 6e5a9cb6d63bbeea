"""What changed between two images of one repository. Pure: works on what registry.details.describe says of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Described = Mapping[str, Any]


def compare(before: Described, after: Described) -> dict[str, Any]:
    """Layers both have, only one has, and each field of the configuration that differs; sizes in bytes."""
    old = {layer["digest"]: layer for layer in before["layers"]}
    new = {layer["digest"]: layer for layer in after["layers"]}
    return {
        "before": _head(before),
        "after": _head(after),
        "same": before["digest"] == after["digest"],
        "size_change": after["total_size"] - before["total_size"],
        "kept": [layer for digest, layer in new.items() if digest in old],
        "added": [layer for digest, layer in new.items() if digest not in old],
        "removed": [layer for digest, layer in old.items() if digest not in new],
        "to_pull": sum(layer["size"] for digest, layer in new.items() if digest not in old),
        "config": _fields(_flat(before), _flat(after)),
    }


def _head(image: Described) -> dict[str, Any]:
    return {key: image[key] for key in ("digest", "kind", "total_size", "platforms", "created", "pushed_at", "pushed_by", "tags")}


def _flat(image: Described) -> dict[str, str]:
    """The configuration as names with one value each: "Env PATH", "Labels team", "Cmd"."""
    flat: dict[str, str] = {}
    for name, value in image["config"].items():
        if name == "Env" and isinstance(value, list):
            flat.update((f"Env {key}", text) for key, _, text in (str(item).partition("=") for item in value))
        elif isinstance(value, dict):
            flat.update((f"{name} {key}", "" if item in ({}, None) else str(item)) for key, item in value.items())
        else:
            flat[name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    for key, text in image["annotations"].items():
        flat[f"Annotation {key}"] = str(text)
    flat["Platform"] = ", ".join(image["platforms"])
    return flat


def _fields(old: Mapping[str, str], new: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "before": old.get(name), "after": new.get(name)}
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
