"""State of containers that the command line made: one directory a container, as runc keeps it.

<root>/<id>/config.json   as it was at create; later edits of the bundle have no effect
<root>/<id>/state.json    pid, start_time, boot_id, bundle, created, cgroup_path
<root>/<id>/exec.fifo     there while the container waits to be started
<root>/<id>/status.fifo   how the child tells `start` that its exec failed

The supervisor writes them, too, for a command line that it serves: what would cost it memory is imported where it is used.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import Conflict, InvalidInput, NotFound
from agent.runtime import plan as plans
from agent.runtime.cgroup import Cgroup
from agent.runtime.plan import Plan
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Loads = Callable[[bytes], Any]

CGROUP_PARENT = "/wharf-runtime"
_LONGEST = 1024


class StateDirectory:
    """One container's directory."""

    def __init__(self, root: str, id: str) -> None:
        if not valid(id):
            raise InvalidInput(f"container id {id!r} is not valid; use letters, digits and _ + . -")
        self.id = id
        self.path = os.path.join(root, id)
        self._state: dict[str, Any] | None = None

    def make(self, config: bytes) -> None:
        """`config` is the text of config.json. Raises Conflict when the id is taken."""
        os.makedirs(os.path.dirname(self.path), 0o711, exist_ok=True)
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            raise Conflict("container with given ID already exists", id=self.id) from None
        self.write("config.json", config)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def config(self, loads: Loads | None = None) -> dict[str, Any]:
        return self._read("config.json", loads)

    def state(self, loads: Loads | None = None) -> dict[str, Any]:
        """`loads` is json.loads where it is not given."""
        if self._state is None:
            self._state = self._read("state.json", loads)
        return self._state

    def plan(self, loads: Loads | None = None) -> Plan:
        """The plan of the config as it was at create."""
        state = self.state(loads)
        plan = plans.compile(self.config(loads), id=self.id, rootfs=None, cgroup_parent=CGROUP_PARENT, bundle=state["bundle"])
        plan.cgroup_path = state["cgroup_path"]  # which whoever created it may have chosen otherwise
        return plan

    def cgroup(self) -> Cgroup:
        return Cgroup(self.state()["cgroup_path"])

    def pids(self) -> list[int]:
        """Every process of the container: by its cgroup, or without one by its pid namespace."""
        cgroup = self.cgroup()
        if cgroup.exists():
            return cgroup.pids()
        return _in_pid_namespace_of(self.state()["pid"]) if self.alive() else []

    def alive(self) -> bool:
        state = self.state()
        return state["boot_id"] == boot_id() and is_alive(state["pid"], state["start_time"])

    def kill(self) -> None:
        """SIGKILL for the init process, whatever cgroup it is in."""
        state = self.state()
        if self.alive():
            try:
                os.kill(state["pid"], 9)
            except ProcessLookupError:
                pass  # ended meanwhile

    def status(self) -> str:
        """created, running, paused or stopped."""
        if not self.alive():
            return "stopped"
        if os.path.exists(os.path.join(self.path, "exec.fifo")):
            return "created"
        return "paused" if self.cgroup().frozen() else "running"

    def remove(self) -> None:
        for name in os.listdir(self.path):  # files and pipes only; shutil costs 2 ms to import
            os.unlink(os.path.join(self.path, name))
        os.rmdir(self.path)

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all; durable."""
        path = os.path.join(self.path, name)
        fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path + ".tmp", path)

    def _read(self, name: str, loads: Loads | None) -> dict[str, Any]:
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                text = file.read()
        except FileNotFoundError:
            raise NotFound("container does not exist", id=self.id) from None
        if loads is None:
            import json

            loads = json.loads
        found: dict[str, Any] = loads(text)
        return found


def values(id: str, pid: int, start_time: int, plan: Plan) -> dict[str, Any]:
    """What state.json holds."""
    now = time.time_ns()
    created = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return {
        "id": id,
        "pid": pid,
        "start_time": start_time,
        "boot_id": boot_id(),
        "bundle": plan.bundle,
        "created": f"{created}.{now % 1_000_000_000:09}Z",
        "cgroup_path": plan.cgroup_path,
    }


def valid(id: str) -> bool:
    """[A-Za-z0-9_+.-], at most 1024 of them, and not a directory's own names."""
    plain = id
    for mark in "_+.-":
        plain = plain.replace(mark, "")
    return 0 < len(id) <= _LONGEST and id not in (".", "..") and (not plain or (plain.isascii() and plain.isalnum()))


def every(root: str) -> list[StateDirectory]:
    """All containers under `root` whose creation got as far as a state."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [StateDirectory(root, name) for name in names if os.path.exists(os.path.join(root, name, "state.json"))]


def _in_pid_namespace_of(pid: int) -> list[int]:
    """Ascending; `pid` alone when its namespace is ours."""
    wanted = _pid_namespace(pid)
    if not wanted or wanted == _pid_namespace(os.getpid()):
        return [pid]
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and _pid_namespace(int(name)) == wanted)


def _pid_namespace(pid: int) -> int:
    """Its inode; 0 when the process is gone, or somebody else's."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def is_alive(pid: int, start_time: int) -> bool:
    """Whether that very process runs: not another with its number, not a zombie."""
    try:
        if process.start_time(pid) != start_time:
            return False
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
