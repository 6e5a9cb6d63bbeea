"""nfnetlink sockets: atomic nf_tables batches, the generation id, and conntrack entries (linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from agent.sys.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLMSG_ERROR,
    Message,
    Netlink,
    NetlinkError,
    be32,
    error_of,
    parse,
)

SUBSYS_CTNETLINK = 1
SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFNL_BATCH_GENID = 1
_NFTA_GEN_ID = 1
_CT_GET, _CT_DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_TUPLE_IP, _CTA_IP_V4_SRC, _CTA_IP_V6_SRC = 1, 1, 3


def head(family: int, res_id: int = 0) -> bytes:
    """struct nfgenmsg."""
    return struct.pack(">BBH", family, 0, res_id)


class NftSocket(Netlink):
    """A socket for nf_tables transactions of the netns it was opened in."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def generation(self) -> int:
        """The number of the ruleset: every committed transaction of anybody raises it."""
        _, body = self.get(Message(SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0, head(socket.AF_UNSPEC)))
        return int.from_bytes(parse(body[4:])[_NFTA_GEN_ID], "big")

    def transaction(self, messages: Sequence[Message], generation: int | None) -> None:
        """Do all messages or none. NetlinkError ERESTART: the ruleset is no longer of `generation`, read it again and retry.

        generation None: whatever the ruleset is by then, for messages that take nothing they read for granted.
        `index` of the error is that of the message the kernel refused, -1 for the transaction as a whole.
        """
        pinned = b"" if generation is None else be32(_NFNL_BATCH_GENID, generation)
        begin = Message(_BATCH_BEGIN, 0, head(socket.AF_UNSPEC, SUBSYS_NFTABLES) + pinned)
        end = Message(_BATCH_END, 0, head(socket.AF_UNSPEC, SUBSYS_NFTABLES))
        last = messages[-1]
        acked = [*messages[:-1], Message(last.type, last.flags | NLM_F_ACK, last.body)]
        first = self.send([begin, *acked, end])
        failure: NetlinkError | None = None
        done = False
        for kind, flags, seq, body in self.answers():
            if kind != NLMSG_ERROR or not first <= seq <= first + len(messages) + 1:
                continue
            number, reason = error_of(body, flags)
            if number and failure is None:
                failure = NetlinkError(number, reason, seq - first - 1)
            done = done or seq == first + len(messages)
        if failure is not None:
            raise failure
        if not done:
            raise NetlinkError(errno.EAGAIN, "the kernel did not acknowledge an nf_tables transaction", -1)


class ConntrackSocket(Netlink):
    """Lists and forgets tracked connections of the netns it was opened in."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def forget(self, address: str) -> int:
        """Delete every entry whose replies come from `address`; returns how many there were.

        Without it UDP flows go on to a container that is gone for as long as the sender keeps the entry alive.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        doomed = [Message(SUBSYS_CTNETLINK << 8 | _CT_DELETE, 0, head(family) + body) for body in self._from(family, packed)]
        for message in doomed:
            try:
                self.batch([message])
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # it ended by itself
                    raise
        return len(doomed)

    def _from(self, family: int, packed: bytes) -> Iterator[bytes]:
        source = _CTA_IP_V6_SRC if family == socket.AF_INET6 else _CTA_IP_V4_SRC
        for _, body in self.dump(SUBSYS_CTNETLINK << 8 | _CT_GET, head(family)):
            attrs = parse(body[4:])
            reply = parse(parse(attrs.get(_CTA_TUPLE_REPLY, b"")).get(_CTA_TUPLE_IP, b""))
            if reply.get(source) == packed and _CTA_TUPLE_ORIG in attrs:
                original = attrs[_CTA_TUPLE_ORIG]
                yield struct.pack("=HH", len(original) + 4, _CTA_TUPLE_ORIG | 0x8000) + original
