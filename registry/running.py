"""Where images run, and who holds them: asked of the guests above, which alone know (`<guest>.places`, by name)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from controlplane.api import guests
from controlplane.api.actor import Actor


@dataclass(frozen=True, slots=True)
class Place:
    """One task or container that runs an image; `url` is its page."""

    kind: str
    id: str
    name: str
    node: str
    state: str
    url: str


def running(actor: Actor, digests: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """(what runs any of the digests and `actor` may see, how much more runs that they may not see)."""
    shown: list[dict[str, Any]] = []
    hidden = 0
    for module in guests.modules("places"):
        found, more = module.places(actor, digests)
        shown.extend(asdict(place) for place in found)
        hidden += more
    return shown, hidden


SHOWN = 5


def in_use_by(actor: Actor, holders: Sequence[str]) -> str:
    """Holders of leases in words, for a message: "service web, container/<id> and others"; an id of what `actor` may not see."""
    names: dict[str, str] = {}
    for module in guests.modules("places"):
        names.update(module.names(actor, holders[:SHOWN]))
    words = ", ".join(names.get(holder, holder) for holder in holders[:SHOWN])
    return f"{words} and others" if len(holders) > SHOWN else words
