"""The one file that calls the OCI runtime: what the supervisor needs of it, in plain data."""

from __future__ import annotations

import errno
import os

from agent.runtime import container, plan, shape
from agent.runtime import exec as runtime_exec
from agent.runtime.cgroup import Cgroup as RuntimeCgroup
from agent.runtime.cgroup import hierarchies
from agent.runtime.schema import RESOURCES
from agent.sys.mount import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from agent.runtime.hooks import Series
    from agent.supervisor.streams import Stdio

    class Steps(Protocol):
        """Something that the runtime does in steps (see runtime.conversation), none of which waits."""

        def fileno(self) -> int: ...
        @property
        def due(self) -> float | None: ...
        @property
        def hook(self) -> Series | None: ...
        def step(self) -> bool: ...
        def abandon(self) -> None: ...

    class Making(Steps, Protocol):
        """A creation under way. `init` is complete once `step` says so."""

        @property
        def init(self) -> Init: ...

    class Init(Protocol):
        """First process of a container (waiting to start) or of an exec (started). `console_fd` is -1 without a terminal."""

        pid: int
        pidfd: int
        start_time: int
        console_fd: int

        @property
        def staged(self) -> bool: ...  # made in two steps, whose first was a child of the same parent

        def starting(self) -> Steps: ...
        def let_go(self) -> list[int]: ...

    class Cgroup(Protocol):
        """The resource side of a container. Everything but `update`, `freeze` and `thaw` also works when it does not exist."""

        def update(self, resources: dict[str, Any]) -> None: ...
        def freeze(self) -> None: ...
        def thaw(self) -> None: ...
        def kill(self) -> None: ...
        def stats(self) -> dict[str, Any]: ...
        def pids(self) -> list[int]: ...
        def oom_count(self) -> int: ...
        def memory_directory(self) -> tuple[str | None, str | None]: ...
        def remove(self) -> None: ...

    class Runtime(Protocol):
        """What runs containers: OciRuntime, or a double in unit tests."""

        def create(
            self,
            id_: str,
            config: dict[str, Any],
            rootfs: list[list[Any]],
            stdio: Stdio | None,
        ) -> Making: ...
        def create_sibling(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], stdio: Stdio | None) -> Init: ...
        def taken(
            self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], pid: int, start_time: int, fds: list[int]
        ) -> Init: ...
        def undo(self, init: Init) -> None: ...
        def exec(
            self,
            id_: str,
            config: dict[str, Any],
            rootfs: list[list[Any]],
            pid: int,
            process: dict[str, Any],
            stdio: Stdio | None,
        ) -> Init: ...
        def cgroup(self, id_: str, path: str) -> Cgroup: ...
        def check_resources(self, resources: dict[str, Any]) -> None: ...


class ContainerCgroup:
    """The runtime's cgroup, never waiting: what is not done yet is tried again by the loop."""

    def __init__(self, path: str) -> None:
        self._cgroup = RuntimeCgroup(path)

    def update(self, resources: dict[str, Any]) -> None:
        self._cgroup.update(resources)

    def freeze(self) -> None:
        self._cgroup.freeze()

    def thaw(self) -> None:
        self._cgroup.thaw()

    def kill(self) -> None:
        if not self._cgroup.exists():
            return
        try:
            self._cgroup.kill()
        except FileNotFoundError:
            pass  # half removed: the hierarchies that are gone were empty, and a process is in all of them or none

    def stats(self) -> dict[str, Any]:
        return self._cgroup.stats()

    def pids(self) -> list[int]:
        return self._cgroup.pids() if self._cgroup.exists() else []

    def oom_count(self) -> int:
        return self._cgroup.oom_count()

    def memory_directory(self) -> tuple[str | None, str | None]:
        """(v1 directory, v2 directory), each None where that hierarchy does not count."""
        tree, path = self._cgroup.tree, self._cgroup.path
        v1 = tree.v1.get("memory")
        return (v1 + path if v1 else None, tree.v2 + path if tree.v2 and "memory" in tree.v2_controllers else None)

    def remove(self) -> None:
        """Raises OSError (EBUSY) while the kernel still holds it."""
        if not self._cgroup.remove(seconds=0.0):
            raise OSError(errno.EBUSY, "cgroup is busy", self._cgroup.path)


class OciRuntime:
    """Our own runtime, with containers' cgroups below `cgroup_parent`."""

    def __init__(self, cgroup_parent: str) -> None:
        self._parent = cgroup_parent

    def create(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], stdio: Stdio | None) -> Making:
        return container.Creation(self._plan(id_, config, rootfs), _stdio(stdio), stepped=True)

    def create_sibling(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], stdio: Stdio | None) -> Init:
        """As a child of our parent (see runtime.container.create), and waiting for it."""
        return container.create(self._plan(id_, config, rootfs), _stdio(stdio), sibling=True)

    def taken(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], pid: int, start_time: int, fds: list[int]) -> Init:
        """What another process created and let go of; `fds` as Init.let_go, ours from now on."""
        pidfd, channel, *console = fds
        return container.Init.taken(
            self._plan(id_, config, rootfs), pid, start_time, pidfd, channel, console[0] if console else -1
        )

    def undo(self, init: Init) -> None:
        """Kill what was created and not started; its cgroup is the caller's to remove."""
        assert isinstance(init, container.Init)  # noqa: S101  # made by us; for the type checker
        container.destroy(init, wait=False)

    def exec(
        self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], pid: int, process: dict[str, Any], stdio: Stdio | None
    ) -> Init:
        return runtime_exec.exec_in(self._plan(id_, config, rootfs), pid, process, _stdio(stdio))

    def cgroup(self, id_: str, path: str) -> Cgroup:
        """`path` is linux.cgroupsPath; the rule is plan.compile's."""
        return ContainerCgroup(path if path.startswith("/") else f"{self._parent.rstrip('/')}/{path or id_}")

    def check_resources(self, resources: dict[str, Any]) -> None:
        """Raises InvalidConfig for what cannot be linux.resources."""
        shape.check(resources, RESOURCES, "linux.resources")

    def _plan(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]]) -> plan.Plan:
        mounts = [Mount(kind, source, target, tuple(options)) for kind, source, target, options in rootfs]
        return plan.compile(config, id=id_, rootfs=mounts, cgroup_parent=self._parent)


def _stdio(stdio: Stdio | None) -> container.Stdio:
    if stdio is None:
        return container.Stdio(terminal=True)
    return container.Stdio(stdin_fd=stdio.stdin, stdout_fd=stdio.stdout, stderr_fd=stdio.stderr)


def enter_own_cgroup(path: str) -> None:
    """Move this process into `path` under every hierarchy, so that whoever kills our starter's cgroup does not kill us."""
    for point in hierarchies().mount_points():
        directory = point + path
        os.makedirs(directory, exist_ok=True)
        _fill_cpuset(point, path)
        with open(directory + "/cgroup.procs", "wb", buffering=0) as file:
            file.write(b"0")


def _fill_cpuset(point: str, path: str) -> None:
    """A new v1 cpuset is empty and nothing can join it: hand cpus and mems down."""
    above = point
    for part in path.strip("/").split("/"):
        here = f"{above}/{part}"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{here}/{name}") and point == hierarchies().v1.get("cpuset"):
                with open(f"{here}/{name}", "r+b", buffering=0) as file:
                    if not file.read().strip():
                        with open(f"{above}/{name}", "rb") as parent:
                            file.write(parent.read().strip())
        above = here
