"""What is remembered of networks and sandboxes: plain data, written as JSON by tmp + rename.

Networks live in the state directory, synced. Sandboxes live in the run directory (tmpfs): they exist exactly as long as the
kernel that holds them, so a record must not outlive a reboot either, and nothing waits for a disk where that directory is on one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent.protocol.codec import InvalidSpec, decode, encode
from agent.protocol.spec import NetworkMode, Protocol
from agent.storage import durable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Network:
    """A network of this node. `created` is in Unix nanoseconds; `subnet` and `gateway` are always set."""

    id: str
    name: str
    bridge: str
    subnet: str
    gateway: str
    created: int
    driver: str = "bridge"
    internal: bool = False
    mtu: int = 1500
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> int:
        return int(self.subnet.rsplit("/", 1)[1])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One sandbox on one network: `veth` is the link on the node, `interface` the one inside."""

    network_id: str
    network: str
    interface: str
    veth: str
    address: str
    prefix: int
    gateway: str
    mac: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the node that leads to `address`:`container_port`. `host_ip` "" is every IPv4 address of the node."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: Protocol
    address: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The network side of one container."""

    container_id: str
    mode: NetworkMode
    name: str = ""  # the container's name, for DNS
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()


def write(path: str, value: Any) -> None:
    """Replace the file atomically and durably."""
    durable.write(path, _text(value))


def note(path: str, value: Any) -> None:
    """Replace a file of the run directory: atomically, and kept while this kernel runs."""
    durable.replace(path, _text(value))


def _text(value: Any) -> bytes:
    return json.dumps(encode(value), separators=(",", ":")).encode()


def unnote(path: str) -> None:
    """Take back what was noted."""
    durable.remove(path)


def erase(path: str) -> None:
    if durable.remove(path):
        durable.sync_directory(os.path.dirname(path))


def read(path: str, cls: type[T]) -> T | None:
    """The record at `path`; None when there is none, or none that can be read (a crash of the machine in mid-write)."""
    try:
        with open(path, "rb") as file:
            return decode(cls, json.load(file), unknown="ignore")
    except (FileNotFoundError, ValueError, InvalidSpec):
        return None


def read_all(directory: str, cls: type[T]) -> Iterator[T]:
    for name in sorted(os.listdir(directory)):
        if name.endswith(".json"):
            record = read(os.path.join(directory, name), cls)
            if record is not None:
                yield record
