"""The networks that are in the kernel now: their bridges, forwarding, and the rules for all of them together."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from agent.network import bridge
from agent.network.firewall import Firewall
from agent.network.networks import NetworkStore
from agent.network.records import Network, PublishedPort
from agent.network.sysctls import FORWARD, Sysctls
from agent.sys import rtnetlink
from agent.sys.netlink import Netlink, NetlinkError


class Bridges:
    """Not locked: its owner is. `published` gives every port that is published now."""

    def __init__(
        self,
        store: NetworkStore,
        table: str,
        sysctl_path: str,
        published: Callable[[], Iterable[PublishedPort]],
        protect_ports: Sequence[int],
    ) -> None:
        self._store = store
        self._up: set[str] = set()
        self._sysctls = Sysctls(sysctl_path)
        self.firewall = Firewall(table, self._networks, published, protect_ports)

    def _networks(self) -> list[Network]:
        return [network for network in self._store.list() if network.id in self._up]

    def raise_one(self, network: Network) -> int:
        """The bridge in the kernel, forwarding on and rules written; returns the index of the bridge."""
        with Netlink() as route:
            if network.id in self._up:
                with contextlib.suppress(NetlinkError):  # ENODEV: somebody removed it; made anew below
                    return rtnetlink.link(route, network.bridge).ifindex
            index = bridge.ensure(route, self._sysctls, network)
        self._up.add(network.id)
        self._forward()
        self.firewall.rewrite()
        return index

    def raise_all(self, networks: Sequence[Network]) -> None:
        """As `raise_one`, for many; the rules are written by `settle`."""
        if not networks:
            return
        self._forward()
        with Netlink() as route:
            for network in networks:
                bridge.ensure(route, self._sysctls, network)
        self._up.update(network.id for network in networks)

    def lower(self, network: Network) -> None:
        """Remove the bridge; with the last one everything of ours leaves the node."""
        with Netlink() as route:
            bridge.remove(route, network.bridge)
        self._up.discard(network.id)
        self.settle()

    def settle(self) -> None:
        """Write the rules for what is up; or remove them and put the node back as it was when nothing is."""
        if self._up:
            self.firewall.rewrite()
            return
        self.firewall.remove()
        self._sysctls.restore()
        self.firewall.guard = False

    def _forward(self) -> None:
        self._sysctls.set(FORWARD, "1")
        self.firewall.guard = self._sysctls.we_forward


def taken() -> list[ipaddress.IPv4Network]:
    """Subnets that the node reaches by itself, our own bridges' included."""
    with Netlink() as route:
        direct = [(address, prefix) for _, address, prefix in rtnetlink.addresses(route)]
        routed = [(address, prefix) for address, prefix, _ in rtnetlink.routes(route) if prefix]
    return [ipaddress.IPv4Network(f"{address}/{prefix}", strict=False) for address, prefix in [*direct, *routed]]
