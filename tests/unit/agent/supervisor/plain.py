"""A double of the runtime: plain processes, no namespaces, no cgroups. It lets the supervisor's own work be tested without root.

Run as a program it is a supervisor over such processes.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 5)[0])

from agent.protocol.errors import Internal
from agent.supervisor.processes import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.supervisor.streams import Stdio


class ExecFailed(Internal):
    code = "exec_failed"


class PlainInit:
    """A forked process that waits for a byte, then execs."""

    def __init__(self, args: list[str], stdio: Stdio | None) -> None:
        self.console_fd = -1
        slave = -1
        if stdio is None:
            self.console_fd, slave = os.openpty()
        gate_read, self._gate = os.pipe2(os.O_CLOEXEC)
        self._fault, fault_write = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            self._child(args, stdio, slave, gate_read, fault_write)
        os.close(gate_read)
        os.close(fault_write)
        if slave >= 0:
            os.close(slave)
        self.pidfd = os.pidfd_open(self.pid)
        self.start_time = start_time(self.pid) or 0

    staged = False

    def let_go(self) -> list[int]:
        raise NotImplementedError("a shim's container needs the real runtime")

    def starting(self) -> PlainStart:
        os.write(self._gate, b"!")
        os.close(self._gate)
        return PlainStart(self._fault)

    def _child(self, args: list[str], stdio: Stdio | None, slave: int, gate: int, fault: int) -> None:
        os.setsid()
        for number, fd in enumerate((slave,) * 3 if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)):
            os.dup2(fd, number)
        os.close(self._gate)
        keep = sorted((gate, fault))
        for low, high in ((3, keep[0]), (keep[0] + 1, keep[1]), (keep[1] + 1, 4096)):
            os.closerange(low, high)
        if not os.read(gate, 1):
            os._exit(1)
        try:
            os.execvp(args[0], args)  # a test's program
        except OSError as error:
            os.write(fault, str(error.errno).encode())
            os._exit(1)


class PlainStart:
    """Over when the pipe is closed by execve."""

    due = None
    hook = None

    def __init__(self, fault: int) -> None:
        self._fault = fault

    def fileno(self) -> int:
        return self._fault

    def step(self) -> bool:
        fault = os.read(self._fault, 16)
        self.abandon()
        if fault:
            raise ExecFailed("cannot execute", errno=int(fault))
        return True

    def abandon(self) -> None:
        if self._fault >= 0:
            os.close(self._fault)
            self._fault = -1


class PlainMaking:
    """Over as soon as it is begun."""

    due = None
    hook = None

    def __init__(self, init: PlainInit) -> None:
        self.init = init

    def fileno(self) -> int:
        return -1

    def step(self) -> bool:
        return True

    def abandon(self) -> None:
        os.kill(self.init.pid, 9)


class PlainCgroup:
    """Nothing is limited; nothing needs removing."""

    def update(self, resources: dict[str, Any]) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def remove(self) -> None: ...

    def stats(self) -> dict[str, Any]:
        return {}

    def pids(self) -> list[int]:
        return []

    def oom_count(self) -> int:
        return 0

    def memory_directory(self) -> tuple[str | None, str | None]:
        return None, None


class PlainRuntime:
    def __init__(self, cgroup_parent: str) -> None: ...

    def create(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], stdio: Stdio | None) -> PlainMaking:
        return PlainMaking(PlainInit(config["process"]["args"], stdio))

    def create_sibling(self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], stdio: Stdio | None) -> PlainInit:
        raise NotImplementedError("a shim's container needs the real runtime")

    def taken(
        self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], pid: int, start_time: int, fds: list[int]
    ) -> PlainInit:
        raise NotImplementedError("a shim's container needs the real runtime")

    def undo(self, init: object) -> None:
        raise NotImplementedError("a shim's container needs the real runtime")

    def exec(
        self, id_: str, config: dict[str, Any], rootfs: list[list[Any]], pid: int, process: dict[str, Any], stdio: Stdio | None
    ) -> PlainInit:
        init = PlainInit(process["args"], stdio)
        init.starting().step()
        return init

    def check_resources(self, resources: dict[str, Any]) -> None: ...

    def cgroup(self, id_: str, path: str) -> PlainCgroup:
        return PlainCgroup()


if __name__ == "__main__":
    from agent.supervisor.main import main

    sys.exit(main(sys.argv, PlainRuntime))
