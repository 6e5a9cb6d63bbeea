"""Bridges and veths in the kernel. Every function takes the rtnetlink socket to talk through, and can be done again."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Sequence

from agent.network.errors import NetworkFailed
from agent.network.naming import mac_of
from agent.network.records import Endpoint, Network
from agent.network.sysctls import Sysctls
from agent.sys import netns, rtnetlink
from agent.sys.netlink import Message, Netlink, NetlinkError

LOOPBACK = 1  # the index of lo, the first link of every netns


def ensure(route: Netlink, sysctls: Sysctls, network: Network) -> int:
    """Make the bridge, or complete one that is half made; returns its index."""
    try:
        link = rtnetlink.link(route, network.bridge)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        _step(
            f"create bridge {network.bridge}",
            route,
            rtnetlink.new_bridge(network.bridge, mac_of(network.gateway), network.mtu, network.name),
        )
        link = rtnetlink.link(route, network.bridge)
    if link.kind != "bridge":
        raise NetworkFailed(
            f"link {network.bridge} exists and is no bridge: remove it, its name belongs to network {network.name}"
        )
    # Before it comes up: containers could otherwise reach the node's IPv6 addresses around our IPv4 rules
    sysctls.set_link(network.bridge, "ipv6/conf/…/disable_ipv6", "1")
    sysctls.set_link(network.bridge, "ipv4/conf/…/route_localnet", "1")
    _step(
        f"configure bridge {network.bridge}",
        route,
        [
            rtnetlink.new_address(link.ifindex, network.gateway, network.prefix),
            rtnetlink.set_link(network.bridge, up=True, link_local=True),
        ],
    )
    return link.ifindex


def remove(route: Netlink, name: str) -> None:
    """Remove a link of ours; already gone is fine. Takes 10-40 ms: the kernel waits for its readers."""
    try:
        route.batch([rtnetlink.del_link(name)])
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise NetworkFailed(f"cannot remove link {name}: {error.strerror}") from error


def open_loopback() -> Netlink:
    """Run inside a new netns: bring lo up and return a socket that stays there."""
    route = Netlink()
    try:
        route.batch([rtnetlink.set_link(index=LOOPBACK, up=True, link_local=True)])
    except OSError:
        route.close()
        raise
    return route


def join(
    route: Netlink, inner: Netlink, netns_fd: int, bridge_index: int, network: Network, endpoint: Endpoint, *, default: bool
) -> None:
    """Lay a veth from a bridge into a netns and configure its far end: one sendmsg out here, two inside."""
    _step(
        f"create veth {endpoint.veth} on {network.bridge}",
        route,
        rtnetlink.new_veth(endpoint.veth, bridge_index, netns_fd, endpoint.interface, endpoint.mac, network.mtu),
    )
    index = rtnetlink.link(inner, endpoint.interface).ifindex
    messages = [
        rtnetlink.new_address(index, endpoint.address, endpoint.prefix, _broadcast(network)),
        rtnetlink.set_link(index=index, up=True),
    ]
    if default:
        messages.append(rtnetlink.default_route(endpoint.gateway))
    _step(f"configure {endpoint.interface} of the container", inner, messages)


def inner_socket(path: str) -> Netlink:
    """A socket inside the netns kept at `path`."""
    fd = netns.open_at(path)
    try:
        return netns.inside(fd, Netlink)
    finally:
        os.close(fd)


def _broadcast(network: Network) -> str:
    return str(ipaddress.IPv4Network(network.subnet).broadcast_address)


def _step(what: str, route: Netlink, messages: Sequence[Message]) -> None:
    try:
        route.batch(messages)
    except NetlinkError as error:
        raise NetworkFailed(f"cannot {what}: {error.strerror} (errno {error.errno})", errno=error.errno) from error
