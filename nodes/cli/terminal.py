"""This terminal joined to a process's: raw mode, input, window size; and the same for pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from types import FrameType

from controlplane.cli.session import Failure
from nodes.cli.streaming import CHUNK, STDERR, Ended, Opened, Output, Stream

DETACH = b"\x10\x11"  # ctrl-p ctrl-q, as Docker's
UNKNOWN_EXIT = 125  # nobody saw how the process ended


def window() -> tuple[int, int]:
    """(rows, columns) of the terminal at standard output or input; 24 by 80 without one."""
    for fd in (1, 0):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            if size.lines and size.columns:
                return min(size.lines, 1000), min(size.columns, 1000)
    return 24, 80


@contextlib.contextmanager
def raw_mode(wanted: bool) -> Iterator[None]:
    """Keys go to the process unchanged, Ctrl-C included; the terminal is restored in every case, SIGTERM and SIGHUP included."""
    if not wanted or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    old = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number, handler in old.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


class Keyboard(threading.Thread):
    """Sends standard input and window sizes while the main thread reads.

    SIGWINCH is heard through a wake-up descriptor: the socket's lock may be held by the very code that a signal interrupts, so a
    handler must never send.
    """

    def __init__(self, stream: Stream, *, stdin: bool, terminal: bool, on_detach: threading.Event) -> None:
        super().__init__(daemon=True, name="keyboard")
        self._stream = stream
        self._stdin = stdin
        self._terminal = terminal
        self._detach = on_detach
        self._held = b""
        self._wake, self._ring = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def listen(self) -> None:
        """From the main thread: start, and hear SIGWINCH when there is a terminal."""
        if self._terminal:
            signal.signal(signal.SIGWINCH, lambda number, frame: None)  # without a handler nothing reaches the descriptor
            signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        self.start()

    def close(self) -> None:
        """The thread ends with the process; only the signal is given back."""
        if self._terminal:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)

    def run(self) -> None:
        watched = [self._wake, *([0] if self._stdin else [])]
        if self._terminal:
            self._stream.resize(*window())  # it may have changed since the ticket was asked for
        while not self._detach.is_set():
            ready, _, _ = select.select(watched, [], [])
            if self._wake in ready:
                os.read(self._wake, 512)
                self._stream.resize(*window())
            if 0 in ready and not self._forward():
                watched.remove(0)

    def _forward(self) -> bool:
        """False at the end of input."""
        try:
            data = os.read(0, CHUNK)
        except OSError:  # EIO: the terminal is gone
            data = b""
        if not data:
            self._stream.end_input()
            return False
        if self._terminal:
            data = self._without_detach(data)
        self._stream.write(data)
        return True

    def _without_detach(self, data: bytes) -> bytes:
        data = self._held + data
        self._held = b""
        before, keys, _ = data.partition(DETACH)
        if keys:
            self._detach.set()
            self._stream.close()
            return before
        if data.endswith(DETACH[:1]):
            self._held = DETACH[:1]
            data = data[:-1]
        return data


def run(stream: Stream, *, stdin: bool, terminal: bool) -> int:
    """Joins standard input, output and error to the stream until it ends; the process's exit code, 0 after ctrl-p ctrl-q.

    Raises Failure when the line breaks.
    """
    detached = threading.Event()
    keyboard: Keyboard | None = None
    with raw_mode(terminal and stdin):
        try:
            for item in stream.items():
                if isinstance(item, Opened) and (stdin or terminal) and keyboard is None:
                    keyboard = Keyboard(stream, stdin=stdin, terminal=terminal, on_detach=detached)
                    keyboard.listen()
                elif isinstance(item, Output):
                    write_all(2 if item.channel == STDERR else 1, item.payload)
                elif isinstance(item, Ended):
                    return _code(item)
        except Failure:
            if not detached.is_set():
                raise
        finally:
            if keyboard is not None:
                keyboard.close()
    return 0


def _code(ended: Ended) -> int:
    if ended.error:
        raise Failure(ended.error)
    return UNKNOWN_EXIT if ended.code is None else ended.code


def write_all(fd: int, data: bytes) -> None:
    """To a descriptor, unbuffered: a terminal's escape sequences must not wait for a newline."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # a terminal that another program of the pipeline made non-blocking
            select.select([], [fd], [])
