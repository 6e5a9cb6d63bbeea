"""How a container is asked to end, and made to: signals, a stop's grace with the kill after it, the end of a lease."""

from __future__ import annotations

import os
import time

from agent.supervisor.record import PAUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.supervisor.container import Container
    from agent.supervisor.loop import Timer

SIGKILL, SIGTERM = 9, 15


class Ending:
    """Of one container. What follows from its end is the container's."""

    __slots__ = ("_container", "_grace")

    def __init__(self, container: Container) -> None:
        self._container = container
        self._grace: Timer | None = None

    def stop(self, signal: int, grace: float | None) -> None:
        """Send a signal, and kill `grace` seconds later what has not ended (None: never)."""
        if grace is not None:
            self._container.record.kill_at = time.monotonic() + grace
            self.arm()
        self.remember()
        self.send(signal)

    def kill(self, signal: int, everything: bool) -> None:
        """To the first process, or to all. KILL and TERM mean the end: no restart."""
        container = self._container
        if signal in (SIGKILL, SIGTERM):
            container.record.stopped = True
            self.remember()
        if not everything:
            self.send(signal)
        elif signal == SIGKILL:
            container.cgroup.kill()
        else:
            for pid in container.cgroup.pids():
                try:
                    os.kill(pid, signal)
                except ProcessLookupError:
                    pass  # ended meanwhile

    def send(self, signal: int) -> None:
        """To the first process, frozen or not."""
        container = self._container
        if container.process is not None:
            container.process.send(signal)
        if container.record.state == PAUSED:  # a frozen process takes no signal, not even KILL on cgroup v1
            container.resume()

    def end_all(self) -> None:
        """Kill whatever there is."""
        self.send(SIGKILL)
        self._container.cgroup.kill()

    def arm(self) -> None:
        """Wait for the end of a grace: also of one that began under another supervisor."""
        self.calm()
        if self._container.record.kill_at:
            self._grace = self._container.context.loop.at(self._container.record.kill_at, self._escalate)

    def calm(self) -> None:
        """It has ended, or something else counts now."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def remember(self) -> None:
        """On record, where another supervisor would do otherwise without: restart, or forget the end of the grace."""
        container = self._container
        if container.record.kill_at or container.spec.restart.get("name", "no") != "no":
            container.record.save()

    def lease_over(self) -> None:
        """No grace: another node may start this workload any moment now."""
        container = self._container
        container.record.stopped = True
        container.record.error = "the node's lease ran out, so this exclusive container was killed"
        container.cgroup.kill()
        self.send(SIGKILL)
        container.record.save()

    def _escalate(self) -> None:
        self._grace = None
        if self._container.process is not None:
            self._container.process.send(SIGKILL)
            self._container.cgroup.kill()
