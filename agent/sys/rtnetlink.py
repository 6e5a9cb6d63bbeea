"""Links, addresses and routes as netlink messages (rtnetlink(7), linux/if_link.h). Pure encoding, and the dumps we read."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from agent.sys.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attr,
    nest,
    parse,
    string,
    text,
    u32,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD = (
    1,
    3,
    4,
    10,
    18,
    20,
    26,
    28,
)
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 1, 5, 23
IFLA_BRPORT_MODE = 4  # hairpin
IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_NONE = 1
_VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1


class Link(NamedTuple):
    ifindex: int
    name: str
    kind: str  # "bridge", "veth", …, "" for physical ones and lo
    master: int  # 0 = none
    up: bool
    mtu: int
    mac: str
    alias: str


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _mac(text_form: str) -> bytes:
    return bytes.fromhex(text_form.replace(":", ""))


def _no_link_local() -> bytes:
    """No IPv6 address of its own on this link: our networks are IPv4 so far, and a link-local one would walk around the rules."""
    return nest(IFLA_AF_SPEC, nest(socket.AF_INET6, attr(IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))))


def new_bridge(name: str, mac: str, mtu: int, alias: str) -> list[Message]:
    """A bridge, down. Its MAC is given, because otherwise it changes with the ports, and peers lose their ARP entry."""
    data = nest(
        IFLA_INFO_DATA, u32(IFLA_BR_FORWARD_DELAY, 0), u32(IFLA_BR_STP_STATE, 0), attr(IFLA_BR_MCAST_SNOOPING, b"\0")
    )  # snooping off: without a querier it only loses multicast
    body = (
        _ifinfo()
        + string(IFLA_IFNAME, name)
        + attr(IFLA_ADDRESS, _mac(mac))
        + u32(IFLA_MTU, mtu)
        + nest(IFLA_LINKINFO, string(IFLA_INFO_KIND, "bridge"), data)
    )
    return [
        Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body),
        Message(
            RTM_NEWLINK, 0, _ifinfo() + string(IFLA_IFNAME, name) + attr(IFLA_IFALIAS, alias.encode()[:255]) + _no_link_local()
        ),
    ]


def new_veth(name: str, bridge_index: int, netns_fd: int, peer: str, peer_mac: str, mtu: int) -> list[Message]:
    """A veth whose peer is born inside another netns, and its near end on a bridge, hairpin on, up.

    Hairpin: with bridge-nf-call-iptables (the kernel's default) a packet that comes back to its own container through a
    published port stays on the bridge level and must leave by the port it came from.
    """
    far = nest(
        _VETH_INFO_PEER,
        _ifinfo(),
        string(IFLA_IFNAME, peer),
        attr(IFLA_ADDRESS, _mac(peer_mac)),
        u32(IFLA_MTU, mtu),
        u32(IFLA_NET_NS_FD, netns_fd),
    )
    create = (
        _ifinfo()
        + string(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_MASTER, bridge_index)
        + nest(IFLA_LINKINFO, string(IFLA_INFO_KIND, "veth"), nest(IFLA_INFO_DATA, far))
    )
    return [Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, create), bridge_port_up(name, bridge_index)]


def bridge_port_up(name: str, bridge_index: int) -> Message:
    """Hairpin on, no IPv6 address, up: for a link that is a port of the bridge."""
    port = nest(
        IFLA_LINKINFO,
        string(IFLA_INFO_SLAVE_KIND, "bridge"),
        nest(IFLA_INFO_SLAVE_DATA, attr(IFLA_BRPORT_MODE, b"\1")),
    )
    body = _ifinfo(0, IFF_UP, IFF_UP) + string(IFLA_IFNAME, name) + u32(IFLA_MASTER, bridge_index) + port + _no_link_local()
    return Message(RTM_NEWLINK, 0, body)


def enslave(name: str, bridge_index: int) -> list[Message]:
    """Put an existing link (back) on a bridge: first the master, as only a port has port options."""
    master = Message(RTM_NEWLINK, 0, _ifinfo() + string(IFLA_IFNAME, name) + u32(IFLA_MASTER, bridge_index))
    return [master, bridge_port_up(name, bridge_index)]


def set_link(name: str = "", index: int = 0, *, up: bool, link_local: bool = False) -> Message:
    head = _ifinfo(index, IFF_UP if up else 0, IFF_UP)
    return Message(
        RTM_NEWLINK, 0, head + (string(IFLA_IFNAME, name) if name else b"") + (b"" if link_local else _no_link_local())
    )


def del_link(name: str) -> Message:
    return Message(RTM_DELLINK, 0, _ifinfo() + string(IFLA_IFNAME, name))


def _address(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def new_address(index: int, address: str, prefix: int, broadcast: str = "") -> Message:
    """An address on link `index`; done again it changes nothing."""
    family, packed = _address(address)
    body = struct.pack("=BBBBI", family, prefix, 0, 0, index) + attr(IFA_LOCAL, packed) + attr(IFA_ADDRESS, packed)
    if broadcast:
        body += attr(IFA_BROADCAST, _address(broadcast)[1])
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def default_route(gateway: str) -> Message:
    """A default route through `gateway`. The kernel finds the link by itself, so the index need not be known in a batch."""
    family, packed = _address(gateway)
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, head + attr(RTA_GATEWAY, packed))


def del_default_route() -> Message:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, 0, 255, 0, 0)
    return Message(RTM_DELROUTE, 0, head)


def links(route: Netlink) -> dict[str, Link]:
    """All links of the socket's netns, by name."""
    found = {}
    for kind, body in route.dump(RTM_GETLINK, _ifinfo()):
        if kind == RTM_NEWLINK:
            link = _link(body)
            found[link.name] = link
    return found


def link(route: Netlink, name: str) -> Link:
    """One link by name. NetlinkError ENODEV when there is none."""
    return _link(route.get(Message(RTM_GETLINK, 0, _ifinfo() + string(IFLA_IFNAME, name)))[1])


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
    attrs = parse(body[16:])
    info = parse(attrs.get(IFLA_LINKINFO, b""))
    number = struct.Struct("=I")
    return Link(
        ifindex=index,
        name=text(attrs.get(IFLA_IFNAME, b"")),
        kind=text(info.get(IFLA_INFO_KIND, b"")),
        master=number.unpack(attrs[IFLA_MASTER])[0] if IFLA_MASTER in attrs else 0,
        up=bool(flags & IFF_UP),
        mtu=number.unpack(attrs[IFLA_MTU])[0] if IFLA_MTU in attrs else 0,
        mac=attrs.get(IFLA_ADDRESS, b"").hex(":"),
        alias=text(attrs.get(IFLA_IFALIAS, b"")),
    )


def addresses(route: Netlink, family: int = socket.AF_INET) -> list[tuple[int, str, int]]:
    """(link index, address, prefix length) of every address."""
    found = []
    for kind, body in route.dump(RTM_GETADDR, struct.pack("=BBBBI", family, 0, 0, 0, 0)):
        if kind != RTM_NEWADDR:
            continue
        _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
        attrs = parse(body[8:])
        packed = attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS)
        if packed:
            found.append((index, socket.inet_ntop(family, packed), prefix))
    return found


def routes(route: Netlink, family: int = socket.AF_INET) -> list[tuple[str, int, int]]:
    """(destination, prefix length, link index) of the unicast routes of every table but `local`; the default one is 0.0.0.0/0."""
    found = []
    for kind, body in route.dump(RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, prefix, _, _, table, _, _, route_type, _ = struct.unpack_from("=BBBBBBBBI", body)
        if kind != RTM_NEWROUTE or route_type != _RTN_UNICAST or table == 255:
            continue
        attrs = parse(body[12:])
        size = 16 if family == socket.AF_INET6 else 4
        oif = struct.unpack("=I", attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0
        found.append((socket.inet_ntop(family, attrs.get(RTA_DST, b"\0" * size)), prefix, oif))
    return found
