"""Out-of-memory kills in a cgroup: an eventfd on memory.oom_control (v1), the notification of memory.events (v2)."""

from __future__ import annotations

import os

from agent.supervisor.loop import PRIORITY, READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.launch import Cgroup


class OomWatch:
    """Calls `happened` once for every notification that raised the cgroup's counter of kills."""

    def __init__(self, loop: Loop, happened: Callable[[], None]) -> None:
        self._loop = loop
        self._happened = happened
        self._fd = -1
        self._seen = 0
        self._cgroup: Cgroup | None = None

    def begin(self, cgroup: Cgroup) -> None:
        """Watch; quietly not, where the kernel accounts no memory: the counter is read at the exit anyway."""
        self.end()
        self._cgroup = cgroup
        try:
            self._seen = cgroup.oom_count()
            self._fd, events = _open(*cgroup.memory_directory())
        except OSError:
            return
        if self._fd >= 0:
            self._loop.watch(self._fd, events, lambda _events: self._notified())

    def check(self) -> int:
        """Look now: the exit of the killed process may be seen before the notification. The cgroup's count of kills."""
        if self._cgroup is None:
            return 0
        try:
            count = self._cgroup.oom_count()
        except OSError:
            return self._seen  # it was removed: nobody saw more
        if count > self._seen:
            self._seen = count
            self._happened()
        return count

    def end(self) -> None:
        self._cgroup = None
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _notified(self) -> None:
        try:
            os.read(self._fd, 4096) if self._v1 else os.pread(self._fd, 4096, 0)  # re-arms it
        except OSError:  # the cgroup was removed, which is notified as well
            self.end()
            return
        self.check()

    @property
    def _v1(self) -> bool:
        return os.readlink(f"/proc/self/fd/{self._fd}").startswith("anon_inode:")


def _open(v1: str | None, v2: str | None) -> tuple[int, int]:
    """A descriptor to watch and the events to watch for; (-1, 0) when neither hierarchy accounts memory."""
    if v1 is not None:
        control = os.open(v1 + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            register = os.open(v1 + "/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(register, f"{fd} {control}".encode())
            finally:
                os.close(register)
        except OSError:
            os.close(fd)
            raise
        finally:
            os.close(control)
        return fd, READ
    if v2 is not None and os.path.exists(v2 + "/memory.events"):
        return os.open(v2 + "/memory.events", os.O_RDONLY | os.O_CLOEXEC), PRIORITY
    return -1, 0
