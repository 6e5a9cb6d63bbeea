"""nf_tables objects and expressions as bytes (linux/netfilter/nf_tables.h). Pure encoding, no socket.

Registers are the kernel's 4-byte ones, R0-R15 (NFT_REG32_00…): a concatenation is loaded into consecutive registers, each
part padded to 4 bytes. Numbers in attributes are in network order; data is as the packet or the kernel has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from agent.sys.netlink import NLM_F_APPEND, NLM_F_CREATE, Message, Netlink, attr, be32, nest, parse, parse_list, string, text
from agent.sys.nfnetlink import SUBSYS_NFTABLES, head

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14

NFPROTO_IPV4, NFPROTO_IPV6 = 2, 10
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
DROP, ACCEPT = 0, 1
_JUMP, _RETURN = -3, -5

R0 = 8
META_IIFNAME, META_OIFNAME, META_L4PROTO = 6, 7, 16
EQ, NEQ = 0, 1
CT_STATE, CT_STATUS = 0, 2
STATE_INVALID, STATE_ESTABLISHED, STATE_RELATED, STATE_NEW = 1, 2, 4, 8
STATUS_DNAT = 1 << 5
TYPE_IPADDR, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_IFNAME = 7, 12, 13, 41

SET_ANONYMOUS, SET_CONSTANT, SET_INTERVAL, SET_MAP = 0x1, 0x2, 0x4, 0x8
_ELEMENTS_A_MESSAGE = 500  # an attribute holds 64 KiB

Expression = bytes


def _message(kind: int, flags: int, family: int, *attrs: bytes) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, flags, head(family) + b"".join(attrs))


# -- objects


def table(family: int, name: str) -> Message:
    return _message(NEWTABLE, NLM_F_CREATE, family, string(1, name), be32(2, 0))


def del_table(family: int, name: str) -> Message:
    return _message(DELTABLE, 0, family, string(1, name))


def chain(family: int, owner: str, name: str) -> Message:
    """A chain that is only jumped to."""
    return _message(NEWCHAIN, NLM_F_CREATE, family, string(1, owner), string(3, name))


def base_chain(family: int, owner: str, name: str, kind: str, hook: int, priority: int) -> Message:
    """A chain on a netfilter hook, policy accept. kind: "filter" or "nat"."""
    hooked = nest(4, be32(1, hook), attr(2, struct.pack(">i", priority)))
    return _message(NEWCHAIN, NLM_F_CREATE, family, string(1, owner), string(3, name), hooked, be32(5, ACCEPT), string(7, kind))


def rule(family: int, owner: str, into: str, expressions: Sequence[Expression], comment: str = "") -> Message:
    listed = nest(4, *expressions)
    note = b""
    if comment:
        packed = comment.encode()[:126] + b"\0"
        note = attr(7, bytes([0, len(packed)]) + packed)  # libnftnl's user data: type 0 = comment, then the length
    return _message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, string(1, owner), string(2, into), listed, note)


def _concat(types: Sequence[int]) -> int:
    """The number by which nft(8) names a concatenation: 6 bits a part."""
    number = 0
    for kind in types:
        number = number << 6 | kind
    return number


_WIDTH = {TYPE_IPADDR: 4, TYPE_PROTOCOL: 4, TYPE_SERVICE: 4, TYPE_IFNAME: 16}  # padded to whole registers
_EXACT = {TYPE_IPADDR: 4, TYPE_PROTOCOL: 1, TYPE_SERVICE: 2, TYPE_IFNAME: 16}


def named_set(family: int, owner: str, name: str, number: int, key: Sequence[int], value: Sequence[int] = ()) -> Message:
    """A set, or with `value` types a map. `number` is unique within the transaction."""
    width = _EXACT[key[0]] if len(key) == 1 else sum(_WIDTH[kind] for kind in key)
    attrs = [string(1, owner), string(2, name), be32(3, SET_MAP if value else 0), be32(4, _concat(key)), be32(5, width)]
    if value:
        attrs += [be32(6, _concat(value)), be32(7, sum(_WIDTH[kind] for kind in value))]
    attrs.append(be32(10, number))
    if key == [TYPE_IFNAME]:
        attrs.append(attr(13, struct.pack("=BBI", 0, 4, 1)))  # user data for nft(8): host byte order, or it prints "" for names
    return _message(NEWSET, NLM_F_CREATE, family, *attrs)


def elements(family: int, owner: str, name: str, items: Sequence[tuple[bytes, bytes]], *, remove: bool = False) -> list[Message]:
    """Elements (key, value; value empty in a plain set) as messages of at most 500 each."""
    messages = []
    kind, flags = (DELSETELEM, 0) if remove else (NEWSETELEM, NLM_F_CREATE)
    for start in range(0, len(items), _ELEMENTS_A_MESSAGE):
        listed = [
            nest(1, nest(1, attr(1, key)), nest(2, attr(1, value)) if value and not remove else b"")
            for key, value in items[start : start + _ELEMENTS_A_MESSAGE]
        ]
        messages.append(_message(kind, flags, family, string(1, owner), string(2, name), nest(3, *listed)))
    return messages


# -- expressions


def _expression(name: str, *attrs: bytes) -> Expression:
    return nest(1, string(1, name), nest(2, *attrs))


def meta(key: int, register: int = R0) -> Expression:
    return _expression("meta", be32(2, key), be32(1, register))


def payload(base: int, offset: int, size: int, register: int = R0) -> Expression:
    """Bytes of the packet; base 1 = network header, 2 = transport header."""
    return _expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, size))


def cmp(value: bytes, *, op: int = EQ, register: int = R0) -> Expression:
    return _expression("cmp", be32(1, register), be32(2, op), nest(3, attr(1, value)))


def load(value: bytes, register: int) -> Expression:
    """Put a constant into a register."""
    return _expression("immediate", be32(1, register), nest(2, attr(1, value)))


def bitwise(mask: bytes, register: int = R0) -> Expression:
    return _expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        be32(3, len(mask)),
        nest(4, attr(1, mask)),
        nest(5, attr(1, b"\0" * len(mask))),
    )


def lookup(name: str, register: int = R0, *, into: int | None = None, invert: bool = False) -> Expression:
    """Match membership of a set; with `into`, load a map's value there (no match ends the rule)."""
    attrs = [string(1, name), be32(2, register)]
    if into is not None:
        attrs.append(be32(3, into))
    if invert:
        attrs.append(be32(5, 1))
    return _expression("lookup", *attrs)


def _verdict(code: int, target: str = "") -> Expression:
    inner = attr(1, struct.pack(">i", code)) + (string(2, target) if target else b"")
    return _expression("immediate", be32(1, 0), nest(2, nest(2, inner)))


def accept() -> Expression:
    return _verdict(ACCEPT)


def drop() -> Expression:
    return _verdict(DROP)


def jump(target: str) -> Expression:
    return _verdict(_JUMP, target)


def give_back() -> Expression:
    """Return to the calling chain."""
    return _verdict(_RETURN)


def ct_flags(key: int, bits: int) -> list[Expression]:
    """Match when any of `bits` is set in the connection's state or status."""
    mask = struct.pack("=I", bits)
    return [
        _expression("ct", be32(1, R0), be32(2, key)),
        bitwise(mask),
        cmp(b"\0\0\0\0", op=NEQ),
    ]


def fib_local() -> list[Expression]:
    """Match when the destination is an address of this netns (fib daddr type local)."""
    return [_expression("fib", be32(1, R0), be32(2, 3), be32(3, 2)), cmp(struct.pack("=I", 2))]


def fib_no_way_back() -> list[Expression]:
    """Match when the source is not routed back out of the link it came from: a spoofed address (fib saddr . iif oif missing)."""
    return [_expression("fib", be32(1, R0), be32(2, 1), be32(3, 1 | 8)), cmp(struct.pack("=I", 0))]


def dnat(family: int, address: int, port: int) -> Expression:
    """Rewrite the destination from the registers given."""
    return _expression("nat", be32(1, 1), be32(2, family), be32(3, address), be32(5, port))


def masquerade() -> Expression:
    return _expression("masq")


def interface(name: str) -> bytes:
    """A link name as sets and comparisons hold it: 16 bytes."""
    return name.encode().ljust(16, b"\0")


# -- what is there


def tables(sock: Netlink, family: int) -> set[str]:
    return {text(parse(body[4:])[1]) for _, body in sock.dump(SUBSYS_NFTABLES << 8 | GETTABLE, head(family))}


def rules(sock: Netlink, family: int, owner: str) -> list[str]:
    """Comments of our rules in order, "" for one without."""
    found = []
    for _, body in sock.dump(SUBSYS_NFTABLES << 8 | GETRULE, head(family) + string(1, owner)):
        note = parse(body[4:]).get(7, b"")
        found.append(note[2:].split(b"\0", 1)[0].decode(errors="replace") if note[:1] == b"\0" else "")
    return found


def keys(sock: Netlink, family: int, owner: str, name: str) -> set[bytes]:
    """Keys of the elements of a set or map. NetlinkError ENOENT without it."""
    found: set[bytes] = set()
    for _, body in sock.dump(SUBSYS_NFTABLES << 8 | GETSETELEM, head(family) + string(1, owner) + string(2, name)):
        for _, element in parse_list(parse(body[4:]).get(3, b"")):
            found.add(parse(parse(element).get(1, b"")).get(1, b""))
    return found


def flat(groups: Iterable[Sequence[Expression]]) -> list[Expression]:
    return [expression for group in groups for expression in group]
