"""Bring up the loopback interface of the current network namespace (netdevice(7))."""

from __future__ import annotations

import _socket
import fcntl
import struct

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def up() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("=16sh22x", b"lo", 0)
        flags = struct.unpack_from("=h", fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, struct.pack("=16sh22x", b"lo", flags | IFF_UP))
    finally:
        sock.close()
