"""A container's terminal: hand it to a socket, or relay it to our own."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import tty as raw_tty
from collections.abc import Callable
from types import FrameType

from agent.sys import tty


def hand_over(master: int, path: str) -> None:
    """Send the pty master to whoever listens on `path`, and let go of it."""
    send(master, path, b"/dev/ptmx")
    os.close(master)


def send(fd: int, path: str, name: bytes) -> None:
    """As runc does: one message to a stream socket, its text a name for the descriptor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        socket.send_fds(sock, [name], [fd])


def relay(master: int, pidfd: int) -> None:
    """Copy both ways until the process is gone and its output drained; our own terminal is raw meanwhile."""
    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        raw_tty.setraw(0)
        _newlines()
        follow_size(master)
    try:
        _copy(master, pidfd)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(master)


def _newlines() -> None:
    """The container's terminal leaves \\n as it is, for a pipe behind us: our own has to make \\r\\n of it. As under runc."""
    state = termios.tcgetattr(0)
    state[1] |= termios.OPOST | termios.ONLCR
    termios.tcsetattr(0, termios.TCSANOW, state)


def follow_size(master: int) -> None:
    """Give the container our window's size, now and whenever it changes."""

    def changed(number: int, frame: FrameType | None) -> None:
        tty.resize(master, *tty.size(0))

    changed(0, None)
    signal.signal(signal.SIGWINCH, changed)


def _copy(master: int, pidfd: int) -> None:
    poller = select.poll()
    poller.register(master, select.POLLIN)
    poller.register(0, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    ended = False
    while True:
        ready = dict(poller.poll(0 if ended else None))
        if master in ready:
            if not _forward(lambda: os.read(master, 65536), sys.stdout.fileno()):
                return
            continue
        if ended:
            return
        ended = pidfd in ready
        if 0 in ready and not _forward(lambda: os.read(0, 65536), master):
            poller.unregister(0)


def _forward(read: Callable[[], bytes], target: int) -> bool:
    """False at the end; a pty whose last slave closed reads as EIO."""
    try:
        data = read()
    except OSError as error:
        if error.errno == 5:
            return False
        raise
    while data:
        data = data[os.write(target, data) :]
        if not data:
            return True
    return False
