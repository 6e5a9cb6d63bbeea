"""The one loop: epoll, a heap of timers, a pipe that signals wake. Nothing in it ever waits for anybody but the kernel."""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections import deque
    from collections.abc import Callable
    from typing import Any
else:
    import _signal as signal  # the `signal` module imports enum
    from _collections import deque  # collections itself costs 0.4 MB

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
_LONGEST = 86400.0  # s of one wait: epoll counts milliseconds in an int
_LEISURE = 0.002  # s of a round for what can wait


class Timer:
    """A call due at `due` (time.monotonic seconds, which goes on across execv)."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Register descriptors and timers, then `run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self._leisure: deque[Callable[[], None]] = deque()
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self.watch(self._wake_read, READ, self._woken)

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call(events)` whenever `fd` is ready (level-triggered). Watching again replaces events and call."""
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; nothing when it is not watched. Must come before the descriptor is closed."""
        if self._calls.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.ENOENT):
                    raise

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, `seconds` from now."""
        return self.at(time.monotonic() + seconds, call)

    def at(self, due: float, call: Callable[[], None]) -> Timer:
        """Call once at `due` on time.monotonic."""
        timer = Timer(due, call)
        heappush(self._timers, timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call once this round's descriptors (or timers) have been served: for what is done for many of them together."""
        self._soon.append(call)

    def at_leisure(self, call: Callable[[], None]) -> None:
        """Call in one of the next rounds: a few each, so that much to clean up keeps nobody waiting."""
        self._leisure.append(call)

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call from the loop, never from the middle of something, when the signal arrives."""
        self._signals[number] = call
        signal.signal(number, _note)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._running:
            self._ready(self._epoll.poll(self._wait()))
            self._together()
            self._expire()
            self._together()
            self._relax()

    def close(self) -> None:
        """Restore the process's signal state and close what the loop itself opened."""
        signal.set_wakeup_fd(-1)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wait(self) -> float:
        if self._soon or self._leisure:
            return 0
        while self._timers and self._timers[0].call is None:
            heappop(self._timers)
        return min(max(0.0, self._timers[0].due - time.monotonic()), _LONGEST) if self._timers else -1

    def _ready(self, ready: list[tuple[int, int]]) -> None:
        for fd, events in ready:
            call = self._calls.get(fd)  # an earlier call of this round may have forgotten it
            if call is not None:
                guard(call, events)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timers and (self._timers[0].call is None or self._timers[0].due <= now):
            call = heappop(self._timers).call
            if call is not None:
                guard(call)

    def _together(self) -> None:
        calls, self._soon = self._soon, []
        for call in calls:
            guard(call)

    def _relax(self) -> None:
        end = time.monotonic() + _LEISURE
        while self._leisure and self._running:
            guard(self._leisure.popleft())
            if time.monotonic() > end:
                return

    def _woken(self, _events: int) -> None:
        for number in set(os.read(self._wake_read, 4096)):
            call = self._signals.get(number)
            if call is not None:
                call()


def _note(_number: int, _frame: object) -> None:
    """The interpreter writes the number to the wake-up pipe only when a Python handler exists; the work is done by the loop."""


def guard(call: Callable[..., None], *args: Any) -> None:
    """A fault in one container's handling must not take the parent of all others with it: say it and go on."""
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001  # the last line of defence; the fault is printed with its place
        report(error)


def report(error: BaseException) -> None:
    """One line on stderr: what, and the three innermost places. (traceback imports tokenize and re.)"""
    places = []
    frame = error.__traceback__
    while frame is not None:
        places.append(f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}")
        frame = frame.tb_next
    sys.stderr.write(f"supervisor: {type(error).__name__}: {error} at {' > '.join(places[-3:])}\n")
    sys.stderr.flush()
