"""Level-triggered repair: from the records and the ids of the running containers to the kernel, in fixed steps."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from agent.network import bridge
from agent.network.attach import Report, outward
from agent.network.errors import NetworkFailed
from agent.network.networks import DEFAULT
from agent.network.records import Endpoint, Network, PublishedPort, Sandbox
from agent.sys import netns, rtnetlink
from agent.sys.netlink import Netlink, NetlinkError
from agent.sys.rtnetlink import Link

if TYPE_CHECKING:
    from agent.network.manager import Networks


class Reconciler:
    """One run. Its owner holds the lock."""

    def __init__(self, owner: Networks, sandboxes: Mapping[str, Sandbox], netns_dir: str) -> None:
        self._owner = owner
        self._sandboxes = sandboxes
        self._netns_dir = netns_dir

    def run(self, live: Collection[str]) -> Report:
        removed = self._remove_dead(live)
        self._drop_stray_namespaces()
        self._owner.bridges.raise_all(self._wanted())
        repaired, broken = self._repair_endpoints()
        lost = self._restore_ports()
        links = self._remove_stray_links()
        self._owner.bridges.settle()
        for container_id in self._sandboxes:
            if container_id not in broken:
                self._owner.serve_names(container_id)
        return Report(tuple(removed), tuple(repaired), tuple(broken), tuple(links), tuple(lost))

    def _remove_dead(self, live: Collection[str]) -> list[str]:
        dead = [container_id for container_id in self._sandboxes if container_id not in live]
        for container_id in dead:
            self._owner.detach(container_id)
        return dead

    def _drop_stray_namespaces(self) -> None:
        for name in os.listdir(self._netns_dir):
            if name not in self._sandboxes:
                netns.drop(os.path.join(self._netns_dir, name))

    def _wanted(self) -> list[Network]:
        """Every user network; the default one only once something used it."""
        used = {endpoint.network_id for sandbox in self._sandboxes.values() for endpoint in sandbox.endpoints}
        return [network for network in self._owner.store.list() if network.name != DEFAULT or network.id in used]

    def _repair_endpoints(self) -> tuple[list[str], list[str]]:
        with Netlink() as route:
            links = rtnetlink.links(route)
        repaired, broken = [], []
        internal = {network.id for network in self._owner.store.list() if network.internal}
        for sandbox in self._sandboxes.values():
            if not self._alive(sandbox.container_id):
                broken.append(sandbox.container_id)
                continue
            out = outward(sandbox, internal)
            faults = [endpoint for endpoint in sandbox.endpoints if not self._in_order(endpoint, links)]
            try:
                for endpoint in faults:
                    self._repair(sandbox, endpoint, links, default=endpoint is out)
            except (NetworkFailed, NetlinkError):  # one that cannot be helped must not keep the others from it
                broken.append(sandbox.container_id)
                continue
            if faults:
                repaired.append(sandbox.container_id)
        return repaired, broken

    def _alive(self, container_id: str) -> bool:
        try:
            os.close(netns.open_at(self._owner.path(container_id)))
        except FileNotFoundError:
            return False
        return True

    def _in_order(self, endpoint: Endpoint, links: Mapping[str, Link]) -> bool:
        veth = links.get(endpoint.veth)
        master = links[self._owner.store.get(endpoint.network_id).bridge]
        return veth is not None and veth.up and veth.master == master.ifindex

    def _repair(self, sandbox: Sandbox, endpoint: Endpoint, links: Mapping[str, Link], *, default: bool) -> None:
        if endpoint.veth not in links:
            self._owner.lay(sandbox.container_id, endpoint, default=default)
            return
        master = links[self._owner.store.get(endpoint.network_id).bridge]
        with Netlink() as route:
            route.batch(rtnetlink.enslave(endpoint.veth, master.ifindex))

    def _restore_ports(self) -> list[PublishedPort]:
        lost = []
        for sandbox in self._sandboxes.values():
            lost += [port for port in sandbox.ports if not self._owner.ports.restore(sandbox.container_id, port)]
        return lost

    def _remove_stray_links(self) -> list[str]:
        bridges = {network.bridge for network in self._owner.store.list()}
        veths = {endpoint.veth for sandbox in self._sandboxes.values() for endpoint in sandbox.endpoints}
        naming = self._owner.naming
        removed = []
        with Netlink() as route:
            for link in rtnetlink.links(route).values():
                stray_bridge = link.kind == "bridge" and naming.is_bridge(link.name) and link.name not in bridges
                stray_veth = link.kind == "veth" and naming.is_veth(link.name) and link.name not in veths
                if stray_bridge or stray_veth:
                    bridge.remove(route, link.name)
                    removed.append(link.name)
        return removed
