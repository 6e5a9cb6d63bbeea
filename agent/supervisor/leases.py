"""Exclusive containers end when the node's lease does, whether the agent lives or not.

The agent writes the newest granted heartbeat into a small file, the supervisor reads it: before it starts an exclusive container,
when it takes one over, and whenever the deadline it knows of has come. All times are CLOCK_BOOTTIME, which no clock step
moves and which counts on while the machine sleeps. A container that cannot die (uninterruptible sleep), and a virtual machine
that its hypervisor has paused, outlive the deadline: only the fence that storage and registry check covers those.
"""

from __future__ import annotations

import os
import struct
import time

from agent.protocol.errors import Unavailable
from agent.supervisor.loop import READ, Loop
from agent.sys import timerfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "lease"  # in the run directory
_SHAPE = struct.Struct("=16sQQ")  # boot id (without hyphens, first half); sent and length of the grant, ns


class LeaseOver(Unavailable):
    """The node holds no lease now: an exclusive container may run elsewhere."""

    code = "lease_over"


class LeaseFile:
    """Both ends of the file. `boot`: this boot's id; what another boot left counts for nothing."""

    def __init__(self, directory: str, boot: str) -> None:
        self._path = os.path.join(directory, FILE)
        self._boot = boot.replace("-", "")[:16].encode()

    def grant(self, sent: float, length: float) -> None:
        """A heartbeat sent at `sent` (s) was granted `length` seconds from then. An older one changes nothing. Raises OSError."""
        moment = int(sent * 1e9)
        if moment < self.read()[0]:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _SHAPE.pack(self._boot, moment, int(length * 1e9)), 0)
        finally:
            os.close(fd)

    def read(self) -> tuple[int, int]:
        """(sent, length) of the newest grant, ns; (0, 0) without one."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0, 0
        try:
            data = os.pread(fd, _SHAPE.size, 0)
        finally:
            os.close(fd)
        if len(data) < _SHAPE.size:
            return 0, 0
        boot, sent, length = _SHAPE.unpack(data)
        return (sent, length) if boot == self._boot and sent <= now() else (0, 0)

    def deadline(self, most: float) -> int:
        """When a container that may run at most `most` seconds on a grant has to be dead, ns."""
        sent, length = self.read()
        return sent + min(length, int(most * 1e9))


class Leases:
    """The containers under a deadline, and one timer for the earliest."""

    def __init__(self, loop: Loop, file: LeaseFile) -> None:
        self._loop = loop
        self._file = file
        self._kept: dict[str, tuple[float, Callable[[], None]]] = {}
        self._timer = -1

    def need(self, most: float) -> None:
        """Raises LeaseOver unless the deadline of an exclusive container (`most` > 0) is still ahead."""
        if most and self._file.deadline(most) <= now():
            raise LeaseOver(
                "this node holds no lease now, so an exclusive container may not run here: wait until its link is back"
            )

    def watch(self, id_: str, most: float, over: Callable[[], None]) -> None:
        """Call `over` once, at the deadline: at once if that has passed. Nothing for a container that is not exclusive."""
        if most:
            self._kept[id_] = (most, over)
            self._look()

    def forget(self, id_: str) -> None:
        self._kept.pop(id_, None)

    def _look(self) -> None:
        """End what is over; set the timer for the next."""
        moment, soonest = now(), 0
        for id_, (most, over) in list(self._kept.items()):
            deadline = self._file.deadline(most)
            if deadline <= moment:
                del self._kept[id_]
                over()
            else:
                soonest = min(soonest or deadline, deadline)
        if soonest or self._timer >= 0:
            self._arm(soonest)

    def _arm(self, at: int) -> None:
        if self._timer < 0:
            self._timer = timerfd.create()
            self._loop.watch(self._timer, READ, lambda _events: self._due())
        timerfd.arm(self._timer, at)

    def _due(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return  # armed anew meanwhile
        self._look()


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
