"""What a container asks of the network, and what it gets: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from agent.network.records import Endpoint, PublishedPort, Sandbox


@dataclass(frozen=True, slots=True)
class AttachSpec:
    """One network to join (name or id). `aliases` are more names for DNS there; `address` "" takes the next free one."""

    network: str
    aliases: tuple[str, ...] = ()
    address: str = ""


@dataclass(frozen=True, slots=True)
class Attached:
    """A sandbox in working order. `address` is that of the default route; `gateway` is "" if all its networks are internal."""

    sandbox_path: str
    endpoints: tuple[Endpoint, ...]
    ports: tuple[PublishedPort, ...]
    address: str = ""
    gateway: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What `sync` found and did. Container ids, links and ports that somebody may want to know of."""

    removed_sandboxes: tuple[str, ...] = ()  # of containers that run no more
    repaired: tuple[str, ...] = ()  # containers whose link was laid anew or put back on its bridge
    broken: tuple[str, ...] = ()  # running containers whose netns is gone or could not be repaired: restart them
    removed_links: tuple[str, ...] = ()
    lost_ports: tuple[PublishedPort, ...] = ()  # taken by a process while no agent ran; still lead to the container


def outward(sandbox: Sandbox, internal: set[str]) -> Endpoint | None:
    """The endpoint with the default route: the first on a network that is not internal."""
    for endpoint in sandbox.endpoints:
        if endpoint.network_id not in internal:
            return endpoint
    return None
