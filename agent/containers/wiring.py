"""A container's place in the world: its network sandbox, the three files in /etc, its mounts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.containers.record import Record
from agent.network import files
from agent.network.attach import AttachSpec, Report
from agent.network.errors import NotAttached
from agent.network.manager import Networks
from agent.protocol.spec import ContainerSpec, NetworkMode
from agent.protocol.states import ContainerState
from agent.sys.mount import Mount

SERVICE_LABEL = "com.docker.swarm.service.name"


class Wiring:
    """Thin over `Networks`: what a container's life cycle needs of it, in the order it needs it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def prepare(self, container_id: str, spec: ContainerSpec, name: str, directory: Path) -> tuple[str | None, list[Mount]]:
        """Before creation: the sandbox to join (None = the node's network) and the binds of /etc/{hosts,hostname,resolv.conf}."""
        sandbox = self._networks.sandbox(container_id, spec.network_mode, name=name)
        return sandbox, self._write_files(spec, container_id, directory, ())

    def connect(self, record: Record, directory: Path) -> None:
        """Before each start: address, routes and published ports; all of it or nothing. Raises `PortInUse` and its kin."""
        if record.spec.network_mode is NetworkMode.HOST:
            return
        self._networks.sandbox(record.id, record.spec.network_mode, name=record.name)
        if record.spec.network_mode is not NetworkMode.BRIDGE or self._networks.inspect(record.id).endpoints:
            return
        # A service's name answers with all of its tasks on this node, as a task's own name does with that one.
        service = record.spec.labels.get(SERVICE_LABEL, "")
        aliases = tuple(dict.fromkeys(name for name in (record.name, service) if name))
        wanted = [AttachSpec(network, aliases=aliases) for network in record.spec.networks]
        attached = self._networks.attach(record.id, wanted, record.spec.ports)
        self._write_files(record.spec, record.id, directory, tuple(endpoint.address for endpoint in attached.endpoints))

    def disconnect(self, container_id: str) -> None:
        self._networks.detach(container_id)

    def sync(self, live: Collection[str]) -> Report:
        return self._networks.sync(live)

    def intact(self) -> bool:
        """Whether the packet filter is as we left it: cheap."""
        return self._networks.intact()

    def addresses(self, record: Record) -> tuple[tuple[str, ...], tuple[Mapping[str, Any], ...]]:
        """Where the container can be reached now: its addresses, and its published ports."""
        if record.spec.network_mode is not NetworkMode.BRIDGE:
            return (), ()
        try:
            sandbox = self._networks.inspect(record.id)
        except NotAttached:  # it has ended, or is about to be attached
            return (), ()
        ports = tuple(
            {
                "host_ip": port.host_ip or "0.0.0.0",  # noqa: S104  # what Docker shows for "every address"
                "host_port": port.host_port,
                "container_port": port.container_port,
                "protocol": port.protocol.value,
            }
            for port in sandbox.ports
        )
        return tuple(endpoint.address for endpoint in sandbox.endpoints), ports

    def _write_files(self, spec: ContainerSpec, container_id: str, directory: Path, addresses: tuple[str, ...]) -> list[Mount]:
        name = spec.hostname or container_id[:12]
        resolver = self._networks.resolver(spec.networks)
        text = files.hosts(name, addresses)
        return files.write(str(directory), hostname=name, hosts_text=text, resolver=resolver)


class Connected(Collection[str]):
    """Containers that need their network, looked at when asked: one that is being made right now has its lock taken."""

    def __init__(self, states: Mapping[str, Mapping[str, Any]], locks: Mapping[str, asyncio.Lock]) -> None:
        self._states = states
        self._locks = locks

    def __contains__(self, container_id: object) -> bool:
        lock, state = self._locks.get(str(container_id)), self._states.get(str(container_id))
        return bool(lock and lock.locked()) or (state is not None and state["state"] != ContainerState.EXITED.value)

    def __iter__(self) -> Iterator[str]:
        return iter([container_id for container_id in {**self._states, **self._locks} if container_id in self])

    def __len__(self) -> int:
        return len(list(iter(self)))
