"""One run of a container: its first process, made to wait, begun, taken over or let go; and the shim that may be its parent."""

from __future__ import annotations

from agent.supervisor import keepsakes
from agent.supervisor.shims import Shim
from agent.supervisor.specification import SHIM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.container import Container
    from agent.supervisor.launch import Init
    from agent.supervisor.processes import Process
    from agent.supervisor.streams import Stdio

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

    def make(self, meanwhile: Callable[[], None] | None) -> int:
        """The process that waits; its pid. Raises WharfError, OSError; the container's streams are to be dropped then."""
        container = self._container
        streams = container.streams
        streams.unlaunch()
        if container.spec.terminal:
            init = self._create(None, meanwhile)
            streams.console(init.console_fd)
        else:
            streams.open_fifos()
            stdio = streams.container_side()
            try:
                init = self._create(stdio, meanwhile)
            finally:
                stdio.close()
        self._init = init
        container.record.begun(init.pid, init.start_time)
        self.process = container.context.processes.track(init.pid, init.pidfd, init.start_time, container.ended)
        container.context.entrust(container)
        if self.shim is not None:
            self.shim.keep(self._details(init), init.console_fd)
        return init.pid

    def begin(self) -> None:
        """Let it exec. Raises WharfError."""
        init, self._init = self._init, None
        if init is not None:
            init.start()

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

    def _create(self, stdio: Stdio | None, meanwhile: Callable[[], None] | None) -> Init:
        container = self._container
        values = container.spec.read()
        config, rootfs = values["config"], values["rootfs"]
        if container.spec.isolation != SHIM:
            return container.context.runtime.create(container.id, config, rootfs, stdio, meanwhile)
        wanted = {"id": container.id, "config": config, "rootfs": rootfs}
        kept = keepsakes.streams_of(container.streams)
        init, self.shim = container.context.shims.create(container.directory, wanted, stdio, kept, meanwhile)
        return init

    def _details(self, init: Init) -> str:
        """What a shim has to know besides what it holds; "" in the common case (see shim._prepare)."""
        spec = self._container.spec
        if init.console_fd < 0 and not spec.lease and not init.staged:
            return ""
        return f"{init.pid} {spec.lease} {self._container.id} {spec.cgroups_path}"
