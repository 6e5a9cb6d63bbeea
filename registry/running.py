"""Where images run, and who holds them: asked of the guests above, which alone know (`<guest>.places`, by name)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Holder:
    """Who leases an image, as one reader may see them: "service web" and its page."""

    text: str
    url: str


# kind of a holder that the reader may not see -> what is said of it
_UNSEEN = {
    "service": "a service that you may not see",
    "container": "a container that you may not see",
    "action": "a container that is about to start",
}
SHOWN = 5


def holders_of(actor: Actor, holders: Iterable[str]) -> dict[str, Holder]:
    """Of each holder of a lease ("service/<id>") what `actor` may know; without a page for what they may not see."""
    keys = sorted(set(holders))
    found = {key: Holder(_UNSEEN.get(key.partition("/")[0], key), "") for key in keys}
    for module in guests.modules("places") if keys else ():
        found.update({key: Holder(*seen) for key, seen in module.names(actor, keys).items()})
    return found


def in_use_by(actor: Actor, holders: Sequence[str]) -> str:
    """Holders of leases in words, for a message: "service web, container/<id> and others"; an id of what `actor` may not see."""
    known = holders_of(actor, holders[:SHOWN])
    words = ", ".join(known[holder].text if known[holder].url else holder for holder in holders[:SHOWN])
    return f"{words} and others" if len(holders) > SHOWN else words
