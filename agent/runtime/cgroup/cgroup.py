"""One container's cgroup: the same path under every hierarchy.

The grace-period trap: writing a pid to `cgroup.procs` of v1 or v2 after some idle time waits 9 to 12 ms for RCU. A process of one
thread that writes `0` to v1's `tasks` moves only itself and does not wait; on v2, CLONE_INTO_CGROUP starts the child inside.
"""

from __future__ import annotations

import os
import select
import time

from agent.protocol.errors import Unavailable
from agent.runtime.cgroup import devices, files, stats, v1, v2
from agent.runtime.cgroup.detect import Hierarchies, hierarchies
from agent.runtime.errors import CgroupRefused, InvalidConfig, RuntimeFailed
from agent.sys import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any

    from agent.runtime.cgroup.v1 import Write
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor

FREEZE_SECONDS = 5.0


class Cgroup:
    """`path` is absolute under every hierarchy, for example "/wharf/<id>". Nothing touches the kernel before `create`."""

    __slots__ = ("path", "tasks_fds", "tree", "unified", "unified_fd", "v1_dirs")

    def __init__(self, path: str, tree: Hierarchies | None = None) -> None:
        if not path.startswith("/") or ".." in path.split("/") or path.strip("/") == "":
            raise InvalidConfig(f"cgroup path {path!r} is not usable; give an absolute path below the root, without '..'")
        self.path = "/" + path.strip("/")
        self.tree = tree or hierarchies()
        self.v1_dirs = {point: point + self.path for point in dict.fromkeys(self.tree.v1.values())}
        self.unified = self.tree.v2 + self.path if self.tree.v2 else None
        self.tasks_fds: list[int] = []
        self.unified_fd = -1

    # -- making and joining

    def create(self, resources: dict[str, Any] | None = None) -> None:
        """Make the directories, write the limits, open what the child needs to join. Undone by `remove` if it fails half-way."""
        try:
            for directory in (*self.v1_dirs.values(), *((self.unified,) if self.unified else ())):
                _make(directory)
            self._fill_cpuset()
            self._enable_v2_controllers(resources or {})
            self._apply_devices((resources or {}).get("devices"))
            self.update(resources or {}, creating=True)
            self.open()
        except BaseException as error:  # whatever it is, nothing may be left; it is raised again
            self.close()
            self.remove(seconds=0.1)
            if isinstance(error, OSError):
                raise RuntimeFailed(f"cannot make the cgroup {self.path}: {error}", stage="cgroup", errno=error.errno) from error
            raise

    def open(self, below: Mapping[str, str] | None = None) -> None:
        """Open the descriptors of an existing cgroup, so that a child can join. `below`: a directory within it by v1 controller,
        "" for every other hierarchy."""
        self.close()
        wanted = below or {}
        others = wanted.get("", "")
        inner = {self.tree.v1[name]: path for name, path in wanted.items() if name}
        for point, directory in self.v1_dirs.items():
            if _exists(directory):
                tasks = os.path.join(directory, inner.get(point, others), "tasks")
                self.tasks_fds.append(os.open(tasks, os.O_WRONLY | os.O_CLOEXEC))
        if self.unified and _exists(self.unified):
            path = os.path.join(self.unified, others)
            self.unified_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self.tasks_fds:
            os.close(fd)
        self.tasks_fds = []
        if self.unified_fd >= 0:
            os.close(self.unified_fd)
            self.unified_fd = -1

    def join(self) -> None:
        """Move the calling process (of one thread) into the v1 hierarchies; v2 it enters by CLONE_INTO_CGROUP."""
        for fd in self.tasks_fds:
            os.write(fd, b"0")

    def _fill_cpuset(self) -> None:
        """A new v1 cpuset is empty and nothing can join it: copy cpus and mems down from the first ancestor that has some."""
        point = self.tree.v1.get("cpuset")
        if point is None:
            return
        above = point
        for part in self.path.strip("/").split("/"):
            here = f"{above}/{part}"
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not files.read(f"{here}/{file}").strip():
                    files.write(f"{here}/{file}", files.read(f"{above}/{file}").strip())
            above = here

    def _enable_v2_controllers(self, resources: dict[str, Any]) -> None:
        """A controller works in a cgroup when every ancestor hands it down; only what v2 governs and v1 does not."""
        if not self.tree.v2 or not self.tree.v2_controllers:
            return
        wanted = sorted(self.tree.v2_controllers - set(self.tree.v1))
        above = self.tree.v2
        for part in self.path.strip("/").split("/"):
            enabled = files.read(above + "/cgroup.subtree_control").split()
            for name in wanted:
                if name not in enabled:
                    try:
                        files.write(above + "/cgroup.subtree_control", "+" + name)
                    except OSError as error:
                        if any(write[0] == name and write[3] for write in v2.settings(resources)):
                            raise CgroupRefused(f"cgroup v2 controller {name} cannot be enabled in {above}: {error}") from error
            above = f"{above}/{part}"

    # -- limits

    def update(self, resources: dict[str, Any], creating: bool = False) -> None:
        """Write the limits named in OCI `resources`; what is not named stays. CgroupRefused names the file."""
        writes = v1.settings(resources)
        if not creating:
            self._order_cpu(writes)
        for write in writes:
            if write[0] in self.tree.v1:
                self._write_v1(write)
            elif write[0] == "blkio" or write[0] in self.tree.v2_controllers:
                pass  # v2 governs it, below
            elif write[3]:
                raise CgroupRefused(f"{write[1]} is asked for, but this machine mounts no {write[0]} cgroup controller")
        if self.unified:
            for controller, file, value, required in v2.settings(self._of_v2(resources)):
                if controller not in self.tree.v1:
                    _write(f"{self.unified}/{file}", value, required and self._v2_has(controller, file))
        if not creating and "devices" in resources:
            self._apply_devices(resources["devices"])

    def _order_cpu(self, writes: list[Write]) -> None:
        """A shorter period before its quota may ask for more than the parent has, and is refused: the quota goes first then."""
        by_file = {file: position for position, (_, file, _, _) in enumerate(writes)}
        for length, share in (("cpu.cfs_period_us", "cpu.cfs_quota_us"), ("cpu.rt_period_us", "cpu.rt_runtime_us")):
            if length in by_file and share in by_file and "cpu" in self.tree.v1:
                first, second = by_file[length], by_file[share]
                now = files.number(f"{self.tree.v1['cpu']}{self.path}/{length}")
                if now is not None and int(writes[first][2]) < now:
                    writes[first], writes[second] = writes[second], writes[first]

    def _of_v2(self, resources: dict[str, Any]) -> dict[str, Any]:
        """Without what v1 governs here, whose rules are others. Raises InvalidConfig for a v2 file of such a controller."""
        for file in resources.get("unified") or {}:
            controller = file.partition(".")[0]
            if controller in self.tree.v1:
                raise InvalidConfig(f"invalid configuration: unified {file} is of cgroup v2, but {controller} is on v1 here")
        return {key: value for key, value in resources.items() if key != "memory" or "memory" not in self.tree.v1}

    def _v2_has(self, controller: str, file: str) -> bool:
        if controller in self.tree.v2_controllers or controller == "cgroup":
            return True
        raise CgroupRefused(f"{file} is asked for, but cgroup v2 on this machine has no {controller} controller")

    def _write_v1(self, write: Write) -> None:
        controller, file, value, required = write
        directory = self.tree.v1[controller] + self.path
        if file in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            self._write_memory(directory, file, value, required)
        else:
            _write(f"{directory}/{file}", value, required)

    def _write_memory(self, directory: str, file: str, value: str, required: bool) -> None:
        """Memory may never exceed memory plus swap, so raise the sum first when the limit passes it."""
        both = files.number(directory + "/memory.memsw.limit_in_bytes")
        if file == "memory.limit_in_bytes" and both is not None and (int(value) < 0 or int(value) > both):
            _write(directory + "/memory.memsw.limit_in_bytes", "-1", False)
        _write(f"{directory}/{file}", value, required)

    def _apply_devices(self, wanted: Any) -> None:
        ordered = devices.rules(wanted)
        if "devices" in self.tree.v1:
            for file, line in devices.v1_writes(ordered):
                _write(f"{self.tree.v1['devices']}{self.path}/{file}", line, True)
        elif self.unified:
            attach_devices(self.unified, ordered)

    # -- life

    def pids(self) -> list[int]:
        """Every process in the cgroup and below it."""
        found: dict[int, None] = {}
        for directory in self._tree_of(self._any_directory()):
            for line in files.read(directory + "/cgroup.procs").split():
                found[int(line)] = None
        return list(found)

    def freeze(self) -> None:
        """Stop every process; returns when all have stopped. Raises Unavailable after 5 s."""
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def frozen(self) -> bool:
        if self.unified and _exists(self.unified + "/cgroup.freeze"):
            return files.read(self.unified + "/cgroup.freeze").strip() == "1"
        directory = self._v1("freezer")
        return bool(directory) and files.read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")

    def _set_frozen(self, frozen: bool) -> None:
        deadline = time.monotonic() + FREEZE_SECONDS
        if self.unified and _exists(self.unified + "/cgroup.freeze"):
            files.write(self.unified + "/cgroup.freeze", "1" if frozen else "0")
            done = _wait_v2_frozen(self.unified + "/cgroup.events", frozen, deadline)
        elif directory := self._v1("freezer"):
            done = _wait_v1_frozen(f"{directory}/freezer.state", "FROZEN" if frozen else "THAWED", deadline)
        else:
            raise CgroupRefused("this machine mounts neither cgroup v2 nor the v1 freezer, so containers cannot be paused")
        if not done:
            self._thaw_quietly() if frozen else None
            raise Unavailable(
                f"the processes of {self.path} did not {'stop' if frozen else 'resume'} within {FREEZE_SECONDS:.0f} s"
            )

    def _thaw_quietly(self) -> None:
        if self.unified and _exists(self.unified + "/cgroup.freeze"):
            files.write(self.unified + "/cgroup.freeze", "0")
        elif directory := self._v1("freezer"):
            files.write(f"{directory}/freezer.state", "THAWED")

    def kill(self) -> None:
        """SIGKILL for every process; a fork cannot outrun it. Does not wait for the deaths."""
        if self.unified and _exists(self.unified + "/cgroup.kill"):
            files.write(self.unified + "/cgroup.kill", "1")
            if self._v1("freezer"):
                self._thaw_v1()
            return
        frozen = self._v1("freezer") is not None
        if frozen:
            try:
                self._set_frozen(True)
            except Unavailable:
                pass  # kill what there is; a frozen half cannot fork
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # died by itself
        if frozen:
            self._thaw_quietly()

    def _thaw_v1(self) -> None:
        """A task frozen by v1 dies of SIGKILL only after the thaw."""
        path = f"{self._v1('freezer')}/freezer.state"
        if files.read(path).strip() not in ("THAWED", ""):
            files.write(path, "THAWED")

    def stats(self) -> dict[str, Any]:
        """See `stats.collect` for the shape."""
        return stats.collect(self._v1, self._unified_or_none())

    def oom_count(self) -> int:
        return stats.oom_kills(self._v1("memory"), self._unified_or_none())

    def remove(self, seconds: float = 1.0) -> bool:
        """Remove the directories, with any that the container made below. The kernel empties a cgroup some time after its last
        process was reaped: retried until `seconds` have passed. False if something is still busy: call again later."""
        self.close()
        deadline = time.monotonic() + seconds
        pause = 0.001
        while True:
            left = [directory for directory in self._directories() if not self._remove_tree(directory)]
            if not left:
                return True
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def exists(self) -> bool:
        return any(_exists(directory) for directory in self._directories())

    # -- where

    def _remove_tree(self, top: str) -> bool:
        try:
            os.rmdir(top)  # the usual case: no children
            return True
        except FileNotFoundError:
            return True
        except OSError:
            pass  # has children, or is busy
        try:
            for directory in reversed(self._tree_of(top)):
                os.rmdir(directory)
            return True
        except FileNotFoundError:
            return not _exists(top)
        except OSError:
            return False

    def _tree_of(self, top: str) -> list[str]:
        """`top` and all below, parents first."""
        found = [top]
        for directory in found:
            try:
                with os.scandir(directory) as entries:
                    found.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                continue
        return found

    def _directories(self) -> list[str]:
        return [*self.v1_dirs.values(), *((self.unified,) if self.unified else ())]

    def _any_directory(self) -> str:
        """The directory that lists the processes: v2's, else v1's pids or any other."""
        if self.unified and _exists(self.unified):
            return self.unified
        return self._v1("pids") or next(iter(self.v1_dirs.values()))

    def _v1(self, controller: str) -> str | None:
        point = self.tree.v1.get(controller)
        return point + self.path if point else None

    def _unified_or_none(self) -> str | None:
        return self.unified if self.unified and _exists(self.unified) else None


def attach_devices(directory: str, ordered: list[devices.Rule]) -> None:
    """Put the device program on a v2 cgroup, in place of ours that may be there."""
    cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    earlier: list[int] = []
    try:
        program_fd = bpf.load_device_program(devices.program(ordered))
        try:
            earlier = bpf.attached_device_programs(cgroup_fd)
            bpf.attach_device_program(cgroup_fd, program_fd, earlier[0] if earlier else -1)
        finally:
            os.close(program_fd)
    finally:
        for fd in earlier:
            os.close(fd)
        os.close(cgroup_fd)


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def _make(directory: str) -> None:
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)


def _write(path: str, value: str, required: bool) -> None:
    try:
        files.write(path, value)
    except FileNotFoundError as error:
        if required:
            raise CgroupRefused(f"the kernel has no {path}, which {value!r} should be written to") from error
    except OSError as error:
        raise CgroupRefused(f"the kernel refuses {value!r} in {path}: {error.strerror}", errno=error.errno) from error


def _wait_v2_frozen(events: str, frozen: bool, deadline: float) -> bool:
    fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        wanted = b"frozen 1" if frozen else b"frozen 0"
        while wanted not in os.pread(fd, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(min(left, 0.1) * 1000)
        return True
    finally:
        os.close(fd)


def _wait_v1_frozen(path: str, wanted: str, deadline: float) -> bool:
    """v1 has no notification, and a task between two states has to be asked for again."""
    while True:
        files.write(path, wanted)
        if files.read(path).strip() == wanted:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
