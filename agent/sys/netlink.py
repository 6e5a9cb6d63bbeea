"""Raw netlink: attributes, messages and sockets (netlink(7), RFC 3549).

A message is built as `Message(type, flags, body)`; a socket sends any number of them in one sendmsg. The kernel handles both
rtnetlink and nfnetlink inside sendmsg, so every answer is queued when it returns and nothing ever waits.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_DUMP_INTR = 0x10

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

LONGEST = 65531  # a length of 16 bits counts the 4 bytes before the payload

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_NLMSGERR_ATTR_MSG = 1
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_RECEIVE = 1 << 18

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")


class NetlinkError(OSError):
    """The kernel refused message `index` of a batch. `errno` is positive, `strerror` carries the kernel's own sentence if any."""

    def __init__(self, number: int, reason: str, index: int = 0) -> None:
        super().__init__(number, reason or os.strerror(number))
        self.index = index


class Message(NamedTuple):
    type: int
    flags: int
    body: bytes


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes. Raises ValueError for a payload whose length does not fit (CVE-2021-43784)."""
    if len(payload) > LONGEST:
        raise ValueError(f"a netlink attribute holds at most {LONGEST} bytes, not {len(payload)}")
    return _attribute.pack(len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def nest(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes. At most 65,531 bytes of them."""
    return attr(kind | NLA_F_NESTED, b"".join(children))


def string(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A 32-bit number in the host's byte order, as rtnetlink wants it."""
    return attr(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A 32-bit number in network order, as nfnetlink wants it."""
    return attr(kind, struct.pack(">I", value))


def parse(data: bytes) -> dict[int, bytes]:
    """Attributes by type; the last of a repeated type wins (lists are read with `parse_list`)."""
    return dict(parse_list(data))


def parse_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _attribute.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def text(data: bytes) -> str:
    """A NUL-terminated string attribute."""
    return data.split(b"\0", 1)[0].decode(errors="replace")


class Netlink:
    """A netlink socket. It belongs to the network namespace of the thread that opened it, and stays there."""

    __slots__ = ("_seq", "sock")

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._seq = 0
        try:
            self.sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self.sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self.sock.bind((0, 0))
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, messages: Sequence[Message]) -> int:
        """Send all messages in one datagram; returns the sequence number of the first (they count up from it)."""
        first = self._seq + 1
        packed = []
        for message in messages:
            self._seq = (self._seq + 1) & 0x7FFFFFFF
            body = message.body + b"\0" * (-len(message.body) % 4)
            packed.append(_header.pack(16 + len(body), message.type, message.flags | NLM_F_REQUEST, self._seq, 0) + body)
        data = b"".join(packed)
        if len(data) > 100_000:  # the default send buffer is 212,992, counted with overhead
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 4 * len(data))
        self.sock.send(data)
        return first

    def answers(self, *, wait: bool = False) -> Iterator[tuple[int, int, int, bytes]]:
        """What is queued now, as (type, flags, seq, body). With `wait` the first receive blocks."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        while True:
            try:
                data = self.sock.recv(_RECEIVE, flags)
            except BlockingIOError:
                return
            yield from _split(data)
            if wait:
                return

    def batch(self, messages: Iterable[Message]) -> None:
        """Do all messages in one sendmsg, each acknowledged. Raises NetlinkError of the first that failed.

        rtnetlink is not atomic: the messages after a failed one were tried too.
        """
        todo = [Message(m.type, m.flags | NLM_F_ACK, m.body) for m in messages]
        first = self.send(todo)
        acknowledged = 0
        failure: NetlinkError | None = None
        for kind, flags, seq, body in self.answers():
            if kind != NLMSG_ERROR or not first <= seq < first + len(todo):
                continue
            acknowledged += 1
            number, reason = error_of(body, flags)
            if number and failure is None:
                failure = NetlinkError(number, reason, seq - first)
        if failure is not None:
            raise failure
        if acknowledged != len(todo):
            raise NetlinkError(errno.EBADMSG, f"{acknowledged} of {len(todo)} netlink messages were acknowledged")

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """All objects of a dump as (type, body). Starts over when the kernel says that the list changed meanwhile."""
        for _ in range(20):
            found, consistent = self._dump_once(kind, body)
            if consistent:
                break
        return found

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[tuple[int, bytes]], bool]:
        first = self.send([Message(kind, NLM_F_DUMP, body)])
        found: list[tuple[int, bytes]] = []
        consistent = True
        while True:
            for answer, flags, seq, payload in self.answers(wait=True):
                if seq != first:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if answer == NLMSG_DONE:
                    return found, consistent
                if answer == NLMSG_ERROR:
                    number, reason = error_of(payload, flags)
                    raise NetlinkError(number or errno.EBADMSG, reason)
                found.append((answer, payload))

    def get(self, message: Message) -> tuple[int, bytes]:
        """The one object that a non-dump request answers with."""
        self.send([message])
        for kind, flags, _, body in self.answers():
            if kind == NLMSG_ERROR:
                number, reason = error_of(body, flags)
                if number:
                    raise NetlinkError(number, reason)
                continue
            return kind, body
        raise NetlinkError(errno.EBADMSG, "the kernel did not answer a netlink request")


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, seq, _ = _header.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, seq, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def error_of(body: bytes, flags: int) -> tuple[int, str]:
    """errno (0 = acknowledgement) and the kernel's extended sentence of an NLMSG_ERROR body."""
    number = -struct.unpack_from("=i", body)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return number, ""
    length = struct.unpack_from("=I", body, 4)[0]
    start = 20 if flags & _NLM_F_CAPPED else 4 + ((length + 3) & ~3)
    return number, text(parse(body[start:]).get(_NLMSGERR_ATTR_MSG, b""))
