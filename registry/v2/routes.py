"""Paths below /v2/, matched from the right: `blobs`, `manifests`, `tags` and `uploads` are legal components of names."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "/v2/"


@dataclass(frozen=True, slots=True)
class Route:
    """`noun` is one of ping, token, catalog, uploads, upload, blob, manifest, tags, referrers; `target` the last component."""

    noun: str
    name: str = ""
    target: str = ""


_FIXED = {"": "ping", "token": "token", "_catalog": "catalog"}
_BY_PARENT = {"manifests": "manifest", "blobs": "blob", "referrers": "referrers"}


def match(path: str) -> Route | None:
    """The route of a decoded path; None when there is none."""
    if path == "/v2":
        return Route("ping")
    if not path.startswith(PREFIX):
        return None
    rest = path[len(PREFIX) :]
    if rest in _FIXED:
        return Route(_FIXED[rest])
    parts = rest.split("/")
    return _uploads(parts) or _leaf(parts)


def _uploads(parts: list[str]) -> Route | None:
    if len(parts) >= 4 and parts[-3:-1] == ["blobs", "uploads"]:
        return Route("upload" if parts[-1] else "uploads", "/".join(parts[:-3]), parts[-1])
    if len(parts) >= 3 and parts[-2:] == ["blobs", "uploads"]:
        return Route("uploads", "/".join(parts[:-2]))
    return None


def _leaf(parts: list[str]) -> Route | None:
    if len(parts) < 3 or not parts[-1]:
        return None
    name = "/".join(parts[:-2])
    if parts[-2:] == ["tags", "list"]:
        return Route("tags", name)
    noun = _BY_PARENT.get(parts[-2])
    return Route(noun, name, parts[-1]) if noun else None
