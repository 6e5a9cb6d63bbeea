"""The resolver's sockets inside a container's netns, and the rule that leads 127.0.0.11:53 to them."""

from __future__ import annotations

import contextlib
import os
import socket

from agent.network.errors import NetworkFailed
from agent.network.files import EMBEDDED
from agent.sys import netns
from agent.sys import nftables as nf
from agent.sys.netlink import Message, NetlinkError
from agent.sys.nfnetlink import NftSocket

_TABLE = "wharf_dns"
_FAMILY = nf.NFPROTO_IPV4
_ADDRESS = socket.inet_aton(EMBEDDED)
_TCP, _UDP = 6, 17


def open_sockets(path: str) -> tuple[socket.socket, socket.socket]:
    """(UDP, TCP listener), non-blocking, in the netns kept at `path`. An older table of ours is replaced."""
    try:
        fd = netns.open_at(path)
        try:
            return netns.inside(fd, _open)
        finally:
            os.close(fd)
    except NetlinkError as error:
        raise NetworkFailed(f"cannot lead port 53 of {EMBEDDED} to the resolver: {error.strerror}", errno=error.errno) from error


def _open() -> tuple[socket.socket, socket.socket]:
    with contextlib.ExitStack() as undo:
        udp = undo.enter_context(_socket(socket.SOCK_DGRAM))
        tcp = undo.enter_context(_socket(socket.SOCK_STREAM))
        tcp.listen(16)
        messages = _rules(udp.getsockname()[1], tcp.getsockname()[1])
        with NftSocket() as sock:
            if _TABLE in nf.tables(sock, _FAMILY):  # an earlier agent's; not deleted in vain, as that makes the close below wait
                messages.insert(0, nf.del_table(_FAMILY, _TABLE))
            sock.transaction(messages, None)  # the table is ours alone, whatever the container does beside it
        undo.pop_all()
        return udp, tcp


def _socket(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.bind((EMBEDDED, 0))
    return sock


def _rules(udp: int, tcp: int) -> list[Message]:
    messages = [
        nf.table(_FAMILY, _TABLE),
        nf.base_chain(_FAMILY, _TABLE, "output", "nat", nf.OUTPUT, -100),
    ]
    for protocol, port in ((_UDP, udp), (_TCP, tcp)):
        expressions = [
            nf.payload(1, 16, 4),
            nf.cmp(_ADDRESS),
            nf.meta(nf.META_L4PROTO),
            nf.cmp(bytes([protocol])),
            nf.payload(2, 2, 2),
            nf.cmp((53).to_bytes(2, "big")),
            nf.load(_ADDRESS, nf.R0),
            nf.load(port.to_bytes(2, "big"), nf.R0 + 1),
            nf.dnat(_FAMILY, nf.R0, nf.R0 + 1),
        ]
        messages.append(nf.rule(_FAMILY, _TABLE, "output", expressions, "resolver of the node"))
    return messages
