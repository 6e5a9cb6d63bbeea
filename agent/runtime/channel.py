"""The wire between a parent and the child it sets up: small messages, with descriptors, over a close-on-exec socket pair.

Kinds, child to parent: P second stage's pid and pidfd; U user namespace waits for its maps; H hooks are due; C console master;
R ready; L number of the seccomp listener's descriptor; E failure. Parent to child: G go on; S start. End of file after S means
that execve has closed the child's end: success.
"""

from __future__ import annotations

import _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FDS = 253  # SCM_MAX_FD


class Channel:
    __slots__ = ("_socket",)

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock

    @classmethod
    def of(cls, fd: int) -> Channel:
        """Over a descriptor that came from another process; it is ours from now on."""
        return cls(_socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def unblock(self) -> None:
        """`receive` raises BlockingIOError from now on when there is nothing. Our end only: the other's waits as before."""
        self._socket.setblocking(False)

    def send(self, kind: bytes, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))] if fds else []
        self._socket.sendmsg([kind + payload], rights, _socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[bytes, bytes, list[int]]:
        """(kind, payload, descriptors); kind is b"" at the end of file."""
        data, ancillary, _, _ = self._socket.recvmsg(65536, _socket.CMSG_SPACE(MAX_FDS * 4), _socket.MSG_CMSG_CLOEXEC)
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds += struct.unpack(f"={len(content) // 4}i", content[: len(content) // 4 * 4])
        return data[:1], data[1:], fds

    def close(self) -> None:
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def pack_failure(stage: str, number: int, text: str) -> bytes:
    return b"\0".join((stage.encode(), b"%d" % number, text.encode(errors="replace")[:3000]))


def unpack_failure(payload: bytes) -> tuple[str, int, str]:
    stage, number, text = payload.split(b"\0", 2)
    return stage.decode(), int(number), text.decode(errors="replace")
