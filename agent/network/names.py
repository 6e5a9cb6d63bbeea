"""Who is called what on which network: the book that DNS answers from."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.network.networks import DEFAULT
from agent.network.records import Sandbox


@dataclass(slots=True)
class Book:
    """Built anew after every change. A container hears only of those it shares a user network with (Docker's rule)."""

    forward: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # network id -> name -> addresses
    reverse: dict[str, dict[str, str]] = field(default_factory=dict)  # network id -> address -> name
    networks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # container id -> ids of its user networks

    def addresses(self, container_id: str, name: str) -> list[str] | None:
        """In random order, so that clients spread; None when nobody on its networks has the name."""
        found = [address for network in self.networks.get(container_id, ()) for address in self.forward[network].get(name, ())]
        random.shuffle(found)
        return found or None

    def name_of(self, container_id: str, address: str) -> str | None:
        for network in self.networks.get(container_id, ()):
            if address in self.reverse[network]:
                return self.reverse[network][address]
        return None


def write(sandboxes: Iterable[Sandbox]) -> Book:
    book = Book()
    for sandbox in sandboxes:
        joined = [endpoint for endpoint in sandbox.endpoints if endpoint.network != DEFAULT]
        book.networks[sandbox.container_id] = tuple(endpoint.network_id for endpoint in joined)
        for endpoint in joined:
            forward = book.forward.setdefault(endpoint.network_id, {})
            names = {name.lower() for name in (sandbox.name, sandbox.container_id[:12], *endpoint.aliases) if name}
            for name in names:
                forward.setdefault(name, []).append(endpoint.address)
                forward.setdefault(f"{name}.{endpoint.network.lower()}", []).append(endpoint.address)
            reverse = book.reverse.setdefault(endpoint.network_id, {})
            reverse[endpoint.address] = f"{sandbox.name or sandbox.container_id[:12]}.{endpoint.network}"
    return book
