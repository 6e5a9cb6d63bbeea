"""Our nf_tables ruleset as data: what it is for given networks and ports. Pure: no socket.

    raw_prerouting   drop loopback addresses and spoofed sources that come in over a link
    nat_prerouting   published ports, from peers          nat_output   … from the node itself
    nat_postrouting  masquerade: egress, the node's loopback, and packets that come back to their own bridge
    forward          containers out, replies in, published ports in; nothing between bridges
    input            what containers may open on the node

Docker's order holds: a published port is published to everybody, other bridges included; an internal network reaches nothing.
Everything is in one table per address family, so that one delete removes us.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from agent.network.records import Network, PublishedPort
from agent.protocol.spec import Protocol
from agent.sys import nftables as nf
from agent.sys.netlink import Message

FAMILY = nf.NFPROTO_IPV4
PORTS, BOUND = "ports", "bound_ports"
_TCP, _UDP, _ICMP = 6, 17, 1
_NUMBERS = {Protocol.TCP: _TCP, Protocol.UDP: _UDP}
_KEPT = nf.STATE_ESTABLISHED | nf.STATE_RELATED
_SOURCE, _DESTINATION = 12, 16  # offsets of the addresses in an IPv4 header
NO_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"


def ruleset(
    table: str, networks: Sequence[Network], ports: Iterable[PublishedPort], protect: Iterable[int], *, guard: bool
) -> list[Message]:
    """The whole table from nothing, to be committed in one transaction. `guard`: the node was no router before us, so it
    forwards for nobody but our bridges."""
    build = _Builder(table)
    build.sets(networks, protect)
    build.raw()
    build.nat(networks)
    build.forward(guard)
    build.input()
    return [*build.messages, *port_elements(table, ports)]


def removal(table: str) -> list[Message]:
    """Remove the table whether or not it is there: made first, so that the delete cannot miss."""
    return [nf.table(FAMILY, table), nf.del_table(FAMILY, table)]


def port_elements(table: str, ports: Iterable[PublishedPort], *, remove: bool = False) -> list[Message]:
    """Elements of the two port maps."""
    anywhere: list[tuple[bytes, bytes]] = []
    bound: list[tuple[bytes, bytes]] = []
    for port in ports:
        service = bytes([_NUMBERS[port.protocol], 0, 0, 0]) + port.host_port.to_bytes(2, "big") + b"\0\0"
        target = ipaddress.ip_address(port.address).packed + port.container_port.to_bytes(2, "big") + b"\0\0"
        if port.host_ip:
            bound.append((ipaddress.ip_address(port.host_ip).packed + service, target))
        else:
            anywhere.append((service, target))
    return [
        *nf.elements(FAMILY, table, PORTS, anywhere, remove=remove),
        *nf.elements(FAMILY, table, BOUND, bound, remove=remove),
    ]


class _Builder:
    def __init__(self, table: str) -> None:
        self.table = table
        self.messages: list[Message] = [*removal(table), nf.table(FAMILY, table)]
        self._sets = 0

    def _set(self, name: str, key: Sequence[int], value: Sequence[int] = (), items: Iterable[bytes] = ()) -> None:
        self._sets += 1
        self.messages.append(nf.named_set(FAMILY, self.table, name, self._sets, key, value))
        self.messages += nf.elements(FAMILY, self.table, name, [(item, b"") for item in items])

    def _base(self, name: str, kind: str, hook: int, priority: int) -> None:
        self.messages.append(nf.base_chain(FAMILY, self.table, name, kind, hook, priority))

    def _rule(self, chain: str, comment: str, *groups: Sequence[nf.Expression]) -> None:
        self.messages.append(nf.rule(FAMILY, self.table, chain, nf.flat(groups), comment))

    def sets(self, networks: Sequence[Network], protect: Iterable[int]) -> None:
        names = [nf.interface(network.bridge) for network in networks]
        self._set("bridges", [nf.TYPE_IFNAME], items=names)
        self._set("internal", [nf.TYPE_IFNAME], items=[nf.interface(network.bridge) for network in networks if network.internal])
        self._set("same", [nf.TYPE_IFNAME, nf.TYPE_IFNAME], items=[name + name for name in names])
        protected = [bytes([number, 0, 0, 0]) + port.to_bytes(2, "big") + b"\0\0" for port in protect for number in (_TCP, _UDP)]
        self._set("protected", [nf.TYPE_PROTOCOL, nf.TYPE_SERVICE], items=protected)
        target = [nf.TYPE_IPADDR, nf.TYPE_SERVICE]
        self._set(PORTS, [nf.TYPE_PROTOCOL, nf.TYPE_SERVICE], target)
        self._set(BOUND, [nf.TYPE_IPADDR, nf.TYPE_PROTOCOL, nf.TYPE_SERVICE], target)

    def raw(self) -> None:
        self._base("raw_prerouting", "filter", nf.PREROUTING, -300)
        not_loopback = [nf.meta(nf.META_IIFNAME), nf.cmp(nf.interface("lo"), op=nf.NEQ)]
        # route_localnet lets 127/8 in over our bridges (CVE-2020-8558)
        self._rule("raw_prerouting", "no loopback from a link", not_loopback, _in(_DESTINATION, "127.0.0.0/8"), [nf.drop()])
        self._rule("raw_prerouting", "no spoofed source", _iif("bridges"), nf.fib_no_way_back(), [nf.drop()])

    def nat(self, networks: Sequence[Network]) -> None:
        self._base("nat_prerouting", "nat", nf.PREROUTING, -100)
        self._base("nat_output", "nat", nf.OUTPUT, -100)
        self._base("nat_postrouting", "nat", nf.POSTROUTING, 100)
        for chain in ("nat_prerouting", "nat_output"):
            bound = [nf.payload(1, _DESTINATION, 4), *_service(nf.R0 + 1), nf.lookup(BOUND, into=nf.R0)]
            self._rule(chain, "ports of one address", bound, [nf.dnat(FAMILY, nf.R0, nf.R0 + 1)])
            anywhere = [*_service(nf.R0), nf.lookup(PORTS, into=nf.R0), nf.dnat(FAMILY, nf.R0, nf.R0 + 1)]
            self._rule(chain, "ports of every address", nf.fib_local(), anywhere)
        masquerade = [nf.masquerade()]
        self._rule("nat_postrouting", "from loopback", _in(_SOURCE, "127.0.0.0/8"), _oif("bridges"), masquerade)
        for network in networks:
            inside, name = _in(_SOURCE, network.subnet), nf.interface(network.bridge)
            to_bridge = [nf.meta(nf.META_OIFNAME), nf.cmp(name)]
            self._rule(
                "nat_postrouting",
                f"back into {network.name}",
                inside,
                to_bridge,
                nf.ct_flags(nf.CT_STATUS, nf.STATUS_DNAT),
                masquerade,
            )
            if not network.internal and network.options.get(NO_MASQUERADE) != "false":
                elsewhere = [nf.meta(nf.META_OIFNAME), nf.cmp(name, op=nf.NEQ)]
                self._rule("nat_postrouting", f"out of {network.name}", inside, elsewhere, masquerade)

    def forward(self, guard: bool) -> None:
        self._base("forward", "filter", nf.FORWARD, 0)
        self.messages.append(nf.chain(FAMILY, self.table, "leaving"))
        published = nf.ct_flags(nf.CT_STATUS, nf.STATUS_DNAT)
        self._rule("forward", "replies", nf.ct_flags(nf.CT_STATE, _KEPT), [nf.accept()])
        self._rule("forward", "from containers", _iif("bridges"), [nf.jump("leaving")])
        self._rule("forward", "published ports", _oif("bridges"), published, [nf.accept()])
        self._rule("forward", "unpublished ports", _oif("bridges"), [nf.drop()])
        if guard:
            self._rule("forward", "no router for others", [nf.drop()])
        same = [nf.meta(nf.META_IIFNAME), nf.meta(nf.META_OIFNAME, nf.R0 + 4), nf.lookup("same")]
        self._rule("leaving", "same network", same, [nf.accept()])
        self._rule("leaving", "internal stays in", _iif("internal"), [nf.drop()])
        self._rule("leaving", "published ports", published, [nf.accept()])
        self._rule("leaving", "isolation", _oif("bridges"), [nf.drop()])
        self._rule("leaving", "egress", [nf.accept()])

    def input(self) -> None:
        self._base("input", "filter", nf.INPUT, 0)
        self.messages.append(nf.chain(FAMILY, self.table, "to_node"))
        self._rule("input", "from containers", _iif("bridges"), [nf.jump("to_node")])
        self._rule("to_node", "replies", nf.ct_flags(nf.CT_STATE, _KEPT), [nf.accept()])
        self._rule("to_node", "icmp", [nf.meta(nf.META_L4PROTO), nf.cmp(bytes([_ICMP])), nf.accept()])
        self._rule("to_node", "internal stays in", _iif("internal"), [nf.drop()])
        self._rule("to_node", "protected ports", _service(nf.R0), [nf.lookup("protected"), nf.drop()])


def _service(register: int) -> list[nf.Expression]:
    """Protocol and destination port into two registers."""
    return [nf.meta(nf.META_L4PROTO, register), nf.payload(2, 2, 2, register + 1)]


def _iif(name: str) -> list[nf.Expression]:
    return [nf.meta(nf.META_IIFNAME), nf.lookup(name)]


def _oif(name: str) -> list[nf.Expression]:
    return [nf.meta(nf.META_OIFNAME), nf.lookup(name)]


def _in(offset: int, subnet: str) -> list[nf.Expression]:
    """Match an address of the IPv4 header against a subnet."""
    network = ipaddress.IPv4Network(subnet)
    return [nf.payload(1, offset, 4), nf.bitwise(network.netmask.packed), nf.cmp(network.network_address.packed)]
