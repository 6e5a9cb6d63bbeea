"""Endpoints made of a network's next address, and back: one pool a network, restored from the sandboxes' records."""

from __future__ import annotations

import os

from agent.network.attach import AttachSpec
from agent.network.ipam import AddressPool
from agent.network.naming import Naming, mac_of
from agent.network.records import Endpoint, Network, Sandbox
from agent.network.sandboxes import Sandboxes


class Addresses:
    """Not locked: its owner is."""

    def __init__(self, directory: str, sandboxes: Sandboxes, naming: Naming) -> None:
        self._directory = directory
        self._sandboxes = sandboxes
        self._naming = naming
        self._pools: dict[str, AddressPool] = {}

    def allocate(self, sandbox: Sandbox, network: Network, spec: AttachSpec) -> Endpoint:
        """Raises InvalidNetwork, AddressTaken, AddressesExhausted."""
        address = self._pool(network).allocate(sandbox.container_id, spec.address)
        taken = {endpoint.interface for endpoint in sandbox.endpoints}
        number = next(number for number in range(len(taken) + 1) if f"eth{number}" not in taken)
        return Endpoint(
            network_id=network.id,
            network=network.name,
            interface=f"eth{number}",
            veth=self._naming.veth(),
            address=address,
            prefix=network.prefix,
            gateway=network.gateway,
            mac=mac_of(address),
            aliases=spec.aliases,
        )

    def free(self, network: Network, endpoint: Endpoint, container_id: str) -> None:
        self._pool(network).free(endpoint.address, container_id)

    def forget(self, network: Network) -> None:
        """A network that is removed."""
        self._pool(network).forget()
        del self._pools[network.id]

    def _pool(self, network: Network) -> AddressPool:
        pool = self._pools.get(network.id)
        if pool is None:
            pool = AddressPool(network.subnet, network.gateway, os.path.join(self._directory, f"turn-{network.id[:16]}.json"))
            for container_id, endpoint in self._sandboxes.members(network.id):
                pool.restore(endpoint.address, container_id)
            self._pools[network.id] = pool
        return pool
