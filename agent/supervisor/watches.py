"""What is watched of a container while it runs: its health check, its memory, its lease."""

from __future__ import annotations

from agent.supervisor.health import HealthCheck
from agent.supervisor.oom import OomWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.container import Container


class Watches:
    """All three at once. Each tells the container by itself."""

    __slots__ = ("_container", "_health", "_lease_over", "_oom")

    def __init__(self, container: Container, lease_over: Callable[[], None]) -> None:
        self._lease_over = lease_over
        self._container = container
        self._health: HealthCheck | None = HealthCheck.of(container)
        self._oom = OomWatch(container.context.loop, lambda: container.publish("oom"))

    def reset(self) -> None:
        """A new run starts."""
        if self._health is not None:
            self._health.reset()

    def begin(self) -> None:
        """Also for a run that another supervisor began. A lease that is over is told at once."""
        container = self._container
        if self._health is not None:
            self._health.begin()
        self._oom.begin(container.cgroup)
        container.context.leases.watch(container.id, container.spec.lease, self._lease_over)

    def end(self) -> None:
        if self._health is not None:
            self._health.end()
        self._oom.end()
        self._container.context.leases.forget(self._container.id)

    def oom_kills(self, lost: bool) -> int:
        """The cgroup's count as it is now. `lost`: nobody watched; else the exit may be seen before the notification."""
        if not lost:
            return self._oom.check()
        try:
            return self._container.cgroup.oom_count()
        except OSError:
            return 0  # the cgroup is gone: nobody saw an OOM kill
