"""Move a link to another network namespace, and its addresses after it (rtnetlink(7), linux/if_addr.h)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from agent.sys import rtnetlink
from agent.sys.netlink import NLM_F_CREATE, NLM_F_REPLACE, Message, Netlink, attr, parse, string, u32

IFA_FLAGS = 8
IFA_F_PERMANENT = 0x80
_KEPT_FLAGS = 0x02 | 0x100 | 0x200 | 0x400  # NODAD, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN: wishes, not states
_SCOPE_UNIVERSE = 0


class Held(NamedTuple):
    """An address as a link holds it; `attributes` are IFA_* ones, packed."""

    family: int
    prefix: int
    attributes: bytes


def move_link(index: int, netns_fd: int, name: str) -> Message:
    """To the namespace of `netns_fd`, there with `name`, which may hold "%d" for a number that is free."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    return Message(rtnetlink.RTM_NEWLINK, 0, body + string(rtnetlink.IFLA_IFNAME, name) + u32(rtnetlink.IFLA_NET_NS_FD, netns_fd))


def permanent_addresses(route: Netlink, index: int) -> list[Held]:
    """Those of global scope and of any family that somebody gave to link `index` to stay (IFA_F_PERMANENT)."""
    found = []
    for kind, body in route.dump(rtnetlink.RTM_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix, short_flags, scope, owner = struct.unpack_from("=BBBBI", body)
        if kind != rtnetlink.RTM_NEWADDR or owner != index or scope != _SCOPE_UNIVERSE:
            continue
        attributes = parse(body[8:])
        flags = struct.unpack("=I", attributes[IFA_FLAGS])[0] if IFA_FLAGS in attributes else short_flags
        if not flags & IFA_F_PERMANENT:
            continue
        kept = (rtnetlink.IFA_LOCAL, rtnetlink.IFA_ADDRESS, rtnetlink.IFA_BROADCAST)
        packed = b"".join(attr(key, attributes[key]) for key in kept if key in attributes)
        found.append(Held(family, prefix, packed + u32(IFA_FLAGS, flags & _KEPT_FLAGS)))
    return found


def give_address(index: int, held: Held) -> Message:
    head = struct.pack("=BBBBI", held.family, held.prefix, 0, _SCOPE_UNIVERSE, index)
    return Message(rtnetlink.RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, head + held.attributes)
