"""Messages on the socket: one JSON object a SOCK_SEQPACKET packet, descriptors beside it, large bodies in a sealed memfd.

    request   {"n": 7, "op": "start", "id": "c1", …}
    answer    {"n": 7, "ok": {…}}   or   {"n": 7, "error": {"code", "status", "retry", "detail", "extra"}}
    event     {"event": {"kind": "exit", "id": "c1", …}}

A packet above PACKET bytes is sent as {"n": 7, "memfd": true} with the memfd as first descriptor. `n` is chosen by the client.
An error with "n": null answers something so broken that its number could not be read.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from agent.protocol.errors import InvalidInput, TooLarge
from agent.supervisor import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PACKET = 64 << 10  # bytes of JSON in a packet
BODY = 16 << 20  # bytes of JSON in a memfd
FDS = 16  # descriptors a message
SOCKET_TYPE = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_GET_SEALS: int = fcntl.F_GET_SEALS
_ADD_SEALS: int = fcntl.F_ADD_SEALS


class Malformed(InvalidInput):
    """The packet is not a message of this protocol."""

    code = "malformed_message"


class MessageTooLarge(TooLarge):
    """More than PACKET bytes in a packet, BODY bytes in a memfd, or FDS descriptors."""

    code = "message_too_large"


class Closed(Exception):  # a fact, not a fault
    """The other end closed."""


def pack(message: dict[str, Any], fds: Sequence[int] = ()) -> tuple[bytes, list[int]]:
    """The packet of a message and duplicates of the descriptors to send beside it: close those after sending.

    Raises MessageTooLarge.
    """
    if len(fds) >= FDS:
        raise MessageTooLarge(f"{len(fds)} descriptors: at most {FDS - 1} fit beside a message")
    data = jsontext.dumps(message)
    if len(data) <= PACKET:
        return data, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    if len(data) > BODY:
        raise MessageTooLarge(f"a message of {len(data)} bytes: at most {BODY} fit")
    body = sealed(data)
    return jsontext.dumps({"n": message.get("n"), "memfd": True}), [
        body,
        *(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds),
    ]


def sealed(data: bytes) -> int:
    """A memfd with `data` that nobody can change any more."""
    fd = os.memfd_create("wharf-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
    return fd


def send(sock: _socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """One packet. Raises BlockingIOError when the other end is slow, OSError when it is gone."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([data], ancillary, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)


def receive(sock: _socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which the caller owns.

    Raises Closed, BlockingIOError, Malformed, MessageTooLarge; descriptors of a refused message are closed here.
    """
    data, ancillary, flags, _address = sock.recvmsg(PACKET + 1, _socket.CMSG_SPACE(FDS * 4), _socket.MSG_CMSG_CLOEXEC)
    fds = _descriptors(ancillary)
    try:
        if flags & _socket.MSG_CTRUNC:
            raise MessageTooLarge(f"too many descriptors: at most {FDS} a message")
        if flags & _socket.MSG_TRUNC or len(data) > PACKET:
            raise MessageTooLarge(f"a packet above {PACKET} bytes: send the body in a sealed memfd")
        if not data:
            raise Closed
        message = _object(data)
        if message.get("memfd") is True:
            message = _object(_body(fds))
            os.close(fds.pop(0))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds


def _object(data: bytes) -> dict[str, Any]:
    message = jsontext.loads(data)
    if not isinstance(message, dict):
        raise Malformed("a message is one JSON object")
    return message


def _body(fds: list[int]) -> bytes:
    if not fds:
        raise Malformed("memfd announced, but no descriptor came with the packet")
    try:
        seals = fcntl.fcntl(fds[0], _GET_SEALS)
    except OSError:
        raise Malformed("the body's descriptor is not a memfd") from None
    if not seals & fcntl.F_SEAL_WRITE:
        raise Malformed("the body's memfd is not sealed against writing")
    size = os.fstat(fds[0]).st_size
    if size > BODY:
        raise MessageTooLarge(f"a body of {size} bytes: at most {BODY}")
    return os.pread(fds[0], size, 0)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            count = len(data) // 4
            fds.extend(struct.unpack(f"{count}i", data[: count * 4]))
    return fds
