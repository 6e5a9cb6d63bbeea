"""Pseudo terminals and pipes (ioctl_tty(2)): unlock, open the peer without a path, size, controlling terminal; what waits."""

from __future__ import annotations

import fcntl
import os
import struct

TCGETS, TCSETS, ONLCR = 0x5401, 0x5402, 0x4
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCGWINSZ = 0x5413
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
FIONREAD = 0x541B


def unlock(master: int) -> None:
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("=i", 0))


def peer(master: int) -> int:
    """The slave of `master`, opened through the master itself: no path under the container's control is walked."""
    return fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))


def waiting(fd: int) -> int:
    """Bytes that a read of a pipe would find now (FIONREAD)."""
    found: int = struct.unpack("=i", fcntl.ioctl(fd, FIONREAD, bytes(4)))[0]
    return found


def plain_newlines(fd: int) -> None:
    """Switch off that \\n becomes \\r\\n on output: bit ONLCR of c_oflag, the second word of struct termios."""
    state = bytearray(fcntl.ioctl(fd, TCGETS, bytes(64)))
    output = struct.unpack_from("=I", state, 4)[0]
    struct.pack_into("=I", state, 4, output & ~ONLCR)
    fcntl.ioctl(fd, TCSETS, bytes(state))


def size(fd: int) -> tuple[int, int]:
    """(rows, columns)."""
    rows, columns, _, _ = struct.unpack("=4H", fcntl.ioctl(fd, TIOCGWINSZ, bytes(8)))
    return rows, columns


def make_controlling(fd: int) -> None:
    """Needs a session leader without a terminal."""
    fcntl.ioctl(fd, TIOCSCTTY, 0)
