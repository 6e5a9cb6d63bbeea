"""One run of a container: its first process, made to wait, begun, taken over or let go; and the shim that may be its parent."""

from __future__ import annotations

from agent.supervisor import keepsakes
from agent.supervisor.shims import Shim, ShimCreation
from agent.supervisor.specification import SHIM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.container import Container
    from agent.supervisor.launch import Init, Making
    from agent.supervisor.processes import Process
    from agent.supervisor.streams import Stdio
    from agent.supervisor.transition import Body

SIGKILL = 9


class Run:
    """The latest. `process` is None before the first and after each."""

    __slots__ = ("_container", "_init", "process", "shim")

    def __init__(self, container: Container) -> None:
        self._container = container
        self._init: Init | None = None
        self.process: Process | None = None
        self.shim: Shim | None = None

    @property
    def waits(self) -> bool:
        """Whether a process waits just before exec."""
        return self._init is not None and self.process is not None

    @property
    def shim_pid(self) -> int:
        """0 without a shim, and after somebody has killed it."""
        return self.shim.pid if self.shim is not None and self.shim.alive else 0

    def make(self, meanwhile: Callable[[], None] | None = None) -> Body:
        """The process that waits. `meanwhile` is called while it sets itself up; what that raises undoes the creation.

        Raises WharfError, OSError; the container's streams are to be dropped then, and its cgroup is to be removed.
        """
        container = self._container
        streams = container.streams
        streams.unlaunch()
        if container.spec.terminal:
            making = self._create(None)
        else:
            streams.open_fifos()
            stdio = streams.container_side()
            try:
                making = self._create(stdio)
            finally:
                stdio.close()
        try:
            if meanwhile is not None:
                meanwhile()
            while not making.step():
                yield making
        except BaseException:
            making.abandon()
            raise
        init = self._init = making.init
        if isinstance(making, ShimCreation):
            self.shim = making.shim
        if container.spec.terminal:
            streams.console(init.console_fd)
        container.record.begun(init.pid, init.start_time)
        self.process = container.context.processes.track(init.pid, init.pidfd, init.start_time, container.ended)
        container.context.entrust(container)
        if self.shim is not None:
            self.shim.keep(self._details(init), init.console_fd)

    def begin(self) -> Body:
        """Let it exec. Raises WharfError."""
        init, self._init = self._init, None
        if init is None:
            return
        starting = init.starting()
        try:
            while not starting.step():
                yield starting
        except BaseException:
            starting.abandon()
            raise

    def discard(self) -> None:
        """Kill what waits, or what failed to start; it is reaped as a stray."""
        self._init = None
        if self.process is not None:
            self.process.send(SIGKILL)
            self.release()
        self.end_shim()

    def over(self) -> None:
        """The process has ended, and that is on record."""
        self._init = None
        self.process = None
        self.end_shim()

    def release(self) -> None:
        """Let go of the process, which is left alone."""
        if self.process is not None:
            self._container.context.processes.release(self.process)
            self.process = None

    def end_shim(self) -> None:
        shim, self.shim = self.shim, None
        if shim is not None:
            shim.end()

    def _create(self, stdio: Stdio | None) -> Making:
        container = self._container
        values = container.spec.read()
        config, rootfs = values["config"], values["rootfs"]
        if container.spec.isolation != SHIM:
            return container.context.runtime.create(container.id, config, rootfs, stdio)
        wanted = {"id": container.id, "config": config, "rootfs": rootfs}
        return container.context.shims.create(container.directory, wanted, stdio, keepsakes.streams_of(container.streams))

    def _details(self, init: Init) -> str:
        """What a shim has to know besides what it holds; "" in the common case (see shim._prepare)."""
        spec = self._container.spec
        if init.console_fd < 0 and not spec.lease and not init.staged:
            return ""
        return f"{init.pid} {spec.lease} {self._container.id} {spec.cgroups_path}"
