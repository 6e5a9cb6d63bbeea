"""DNS messages (RFC 1035), as much as a forwarder needs: read the question, write addresses or an error. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

TYPE_A, TYPE_PTR, TYPE_AAAA, TYPE_ANY = 1, 12, 28, 255
NOERROR, SERVFAIL = 0, 2
TTL = 10  # seconds: short, as containers come and go
_QR, _AA, _RD, _RA = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800
_IN = 1
_header = struct.Struct(">6H")


class Question(NamedTuple):
    """name: lower case, without the last dot. end: where the question section ends in the message."""

    id: int
    flags: int
    name: str
    type: int
    end: int


def parse(data: bytes) -> Question | None:
    """The question of a standard query in class IN; None for anything else, which is forwarded or dropped as it is."""
    if len(data) < 12:
        return None
    number, flags, questions, *_ = _header.unpack_from(data)
    if flags & (_QR | _OPCODE) or questions != 1:
        return None
    labels, offset = [], 12
    while offset < len(data) and data[offset]:
        size = data[offset]
        if size > 63 or offset + size >= len(data):  # compression has no place in a question
            return None
        labels.append(data[offset + 1 : offset + 1 + size].decode("ascii", "replace"))
        offset += 1 + size
    if offset + 5 > len(data):
        return None
    kind, group = struct.unpack_from(">HH", data, offset + 1)
    if group != _IN:
        return None
    return Question(number, flags, ".".join(labels).lower(), kind, offset + 5)


def _reply(data: bytes, question: Question, code: int, answers: Sequence[bytes]) -> bytes:
    flags = _QR | _AA | _RA | (question.flags & _RD) | code
    return _header.pack(question.id, flags, 1, len(answers), 0, 0) + data[12 : question.end] + b"".join(answers)


def _record(kind: int, content: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack(">HHIH", kind, _IN, TTL, len(content)) + content


def addresses(data: bytes, question: Question, found: Sequence[str]) -> bytes:
    """Answer with the addresses that fit the type asked for; none of that type is an empty success: nobody asks elsewhere."""
    packed = [ipaddress.ip_address(address).packed for address in found]
    wanted = {TYPE_A: (4,), TYPE_AAAA: (16,), TYPE_ANY: (4, 16)}.get(question.type, ())
    records = [_record(TYPE_A if len(item) == 4 else TYPE_AAAA, item) for item in packed if len(item) in wanted]
    return _reply(data, question, NOERROR, records)


def pointer(data: bytes, question: Question, name: str) -> bytes:
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return _reply(data, question, NOERROR, [_record(TYPE_PTR, encoded)])


def failure(data: bytes, question: Question, code: int = SERVFAIL) -> bytes:
    return _reply(data, question, code, [])


def reverse_of(name: str) -> str | None:
    """The IPv4 address of an in-addr.arpa name."""
    labels = name.removesuffix(".in-addr.arpa").split(".")
    if not name.endswith(".in-addr.arpa") or len(labels) != 4:
        return None
    return ".".join(reversed(labels))
