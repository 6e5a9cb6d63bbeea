"""Where images run: asked of the guests above, which alone know (`<guest>.places`, by name)."""

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
