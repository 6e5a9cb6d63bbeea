"""The networks of this node as records: create, list, get, remove. The kernel side is `agent.network.manager`'s."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Iterable, Sequence

from agent.network import pools, records
from agent.network.errors import InvalidNetwork, NetworkExists, NetworkInUse, NetworkNotFound
from agent.network.naming import Naming
from agent.network.records import Network
from agent.protocol.spec import NetworkSpec

DEFAULT = "bridge"
RESERVED = frozenset({"host", "none", "default", "ingress"})


class NetworkStore:
    """One JSON file a network under `<state_dir>/networks`. Not locked: its owner is."""

    def __init__(self, state_dir: str, naming: Naming, subnets: Sequence[ipaddress.IPv4Network] = ()) -> None:
        self._directory = os.path.join(state_dir, "networks")
        self._naming = naming
        self._pools = tuple(subnets) or tuple(pools.default_pools())
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._all = {network.id: network for network in records.read_all(self._directory, Network)}

    def list(self) -> list[Network]:
        """The default network first, then by name."""
        return sorted(self._all.values(), key=lambda network: (network.name != DEFAULT, network.name))

    def get(self, name_or_id: str) -> Network:
        """By name, by id, or by an unambiguous beginning of an id (at least 4 digits)."""
        for network in self._all.values():
            if name_or_id in (network.name, network.id):
                return network
        close = [network for network in self._all.values() if len(name_or_id) >= 4 and network.id.startswith(name_or_id)]
        if len(close) == 1:
            return close[0]
        raise NetworkNotFound(f"network {name_or_id!r} does not exist on this node", network=name_or_id)

    def create(self, spec: NetworkSpec, taken: Iterable[ipaddress.IPv4Network] = ()) -> Network:
        """Choose subnet, gateway and bridge, and write it down. `taken` are the subnets that the node reaches already."""
        if spec.driver != "bridge":
            raise InvalidNetwork(f"driver {spec.driver!r} is not supported: networks of a node use the driver 'bridge'")
        if spec.name in RESERVED:
            raise InvalidNetwork(f"the network name {spec.name!r} is reserved")
        if any(network.name == spec.name for network in self._all.values()):
            raise NetworkExists(f"network {spec.name!r} exists already", network=spec.name)
        if not 576 <= spec.mtu <= 65535:
            raise InvalidNetwork(f"mtu {spec.mtu} is outside 576-65535")
        busy = [*taken, *(ipaddress.IPv4Network(network.subnet) for network in self._all.values())]
        subnet = pools.check(spec.subnet, busy) if spec.subnet else pools.first_free(self._pools, busy)
        network_id = os.urandom(32).hex()
        network = Network(
            id=network_id,
            name=spec.name,
            bridge=self._naming.default_bridge if spec.name == DEFAULT else self._naming.bridge(network_id),
            subnet=str(subnet),
            gateway=pools.gateway_of(subnet, spec.gateway),
            created=time.time_ns(),
            internal=spec.internal,
            mtu=spec.mtu,
            labels=dict(spec.labels),
            options=dict(spec.options),
        )
        records.write(self._path(network), network)
        self._all[network.id] = network
        return network

    def remove(self, network: Network) -> None:
        """Forget a network. The default one stays, as everything without a network of its own lives there."""
        if network.name == DEFAULT:
            raise NetworkInUse("the default network cannot be removed", network=DEFAULT)
        self.discard(network)

    def discard(self, network: Network) -> None:
        records.erase(self._path(network))
        self._all.pop(network.id, None)

    def _path(self, network: Network) -> str:
        return os.path.join(self._directory, f"{network.id}.json")
