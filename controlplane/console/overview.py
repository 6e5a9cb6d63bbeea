"""What guests put on the overview and into the search: plain data, gathered by name (`<guest>.console.overview`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.api import guests
from controlplane.api.actor import Actor


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: "3 of 4" nodes ready."""

    label: str
    figure: str
    note: str
    url: str


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that needs a person, with where to go."""

    text: str
    url: str
    state: str = "degraded"


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing that a search found."""

    kind: str
    label: str
    detail: str
    url: str


def _gather(function: str, *args: Any) -> list[Any]:
    found: list[Any] = []
    for module in guests.modules("console.overview"):
        part: Iterable[Any] = getattr(module, function)(*args)
        found.extend(part)
    return found


def tiles(actor: Actor) -> list[Tile]:
    return _gather("tiles", actor)


def attention(actor: Actor) -> list[Attention]:
    return _gather("attention", actor)


def charts(actor: Actor) -> list[dict[str, str]]:
    """{"url", "kind", "label"} of each chart."""
    return _gather("charts", actor)


def find(actor: Actor, text: str) -> list[Hit]:
    return _gather("find", actor, text)
