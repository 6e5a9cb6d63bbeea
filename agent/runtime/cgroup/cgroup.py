"""One container's cgroup: the same path under every hierarchy.

The grace-period trap: writing a pid to `cgroup.procs` of v1 or v2 after some idle time waits 9 to 12 ms for RCU. A process of one
thread that writes `0` to v1's `tasks` moves only itself and does not wait; on v2, CLONE_INTO_CGROUP starts the child inside.
"""

from __future__ import annotations

import errno
import os
import time

from agent.protocol.errors import Unavailable, WharfError
from agent.runtime.cgroup import delegation, devices, files, pressure, stats, tree, v1, v2
from agent.runtime.cgroup.detect import Hierarchies, hierarchies
from agent.runtime.cgroup.freezer import Freezer
from agent.runtime.errors import CgroupRefused, InvalidConfig, RuntimeFailed
from agent.runtime.privilege import privileged
from agent.sys import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping
    from typing import Any

    from agent.runtime.cgroup.scope import Scope
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor

FREEZE_SECONDS = 5.0
NO_CGROUP = "none"  # a path: the container stays in its maker's cgroup
FEW_PIDS = 8  # the set-up may need this many, so a lower limit is written after it


class Cgroup:
    """`path` is absolute under every hierarchy, for example "/wharf/<id>"; or systemd's "slice:prefix:name"; or NO_CGROUP.
    Nothing touches the kernel before `create`. For an ordinary user only the hierarchies count in which the path is his."""

    __slots__ = ("_late", "path", "scope", "tasks_fds", "tree", "unified", "unified_fd", "v1_dirs")

    def __init__(self, path: str, hierarchy: Hierarchies | None = None) -> None:
        self.tree = hierarchy or hierarchies()
        self.scope: Scope | None = None
        if path == NO_CGROUP:
            self.tree = Hierarchies({}, None, frozenset())
            path = "/" + path
        elif ":" in path and not path.startswith("/"):
            from agent.runtime.cgroup.scope import Scope  # and its D-Bus, only where systemd manages cgroups

            self.scope = Scope(path)
            path = self.scope.path
        if not path.startswith("/") or ".." in path.split("/") or path.strip("/") == "":
            raise InvalidConfig(f"cgroup path {path!r} is not usable; give an absolute path below the root, without '..'")
        self.path = "/" + path.strip("/")
        if hierarchy is None and not privileged():
            self.tree = self.tree.usable(self.path)
        self.v1_dirs = {point: point + self.path for point in dict.fromkeys(self.tree.v1.values())}
        self.unified = self.tree.v2 + self.path if self.tree.v2 else None
        self.tasks_fds: list[int] = []
        self.unified_fd = -1
        self._late: dict[str, Any] = {}

    # -- making and joining

    def create(self, resources: dict[str, Any] | None = None, owner: int | None = None) -> None:
        """Make the directories, write the limits, open what the child needs to join. Undone by `remove` if it fails half-way.
        `owner`: the host's uid that a v2 cgroup is delegated to. CgroupRefused if it is frozen."""
        resources = dict(resources or {})
        if "pids" in resources and 0 <= ((resources["pids"] or {}).get("limit") or 0) <= FEW_PIDS:
            self._late = {"pids": resources.pop("pids")}
        if self.scope is not None:
            self.scope.start(resources, v1=bool(self.tree.v1))
        else:
            self._refuse_frozen()
        try:
            made = {directory for directory in self._directories() if tree.make(directory)}
            self._fill_cpuset(made)
            self._enable_v2_controllers(resources)
            self._apply_devices(resources.get("devices"))
            self.update(resources, creating=True)
            if owner is not None and self.unified:
                delegation.give(self.unified, owner)
            self.open()
        except BaseException as error:  # whatever it is, nothing may be left; it is raised again
            self.close()
            self.remove(seconds=0.1)
            if isinstance(error, OSError):
                raise RuntimeFailed(f"cannot make the cgroup {self.path}: {error}", stage="cgroup", errno=error.errno) from error
            raise

    def settle(self) -> None:
        """The container's process is in and set up: write what would have kept it from that."""
        if self.scope is not None:
            self.scope.release()
        if self._late:
            self.update(self._late)

    def _refuse_frozen(self) -> None:
        if self.frozen():
            raise CgroupRefused("container's cgroup unexpectedly frozen; thaw it, or give another cgroupsPath")

    def open(self, below: Mapping[str, str] | None = None) -> None:
        """Open the descriptors of an existing cgroup, so that a child can join. `below`: a directory within it by v1 controller,
        "" for every other hierarchy."""
        self.close()
        wanted = below or {}
        others = wanted.get("", "")
        inner = {self.tree.v1[name]: path for name, path in wanted.items() if name}
        for point, directory in self.v1_dirs.items():
            tasks = os.path.join(directory, inner.get(point, others), "tasks")
            self.tasks_fds += _open_within(directory, tasks, os.O_WRONLY)
        if self.unified:
            found = _open_within(self.unified, os.path.join(self.unified, others), os.O_RDONLY | os.O_DIRECTORY)
            self.unified_fd = found[0] if found else -1

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

    def _fill_cpuset(self, made: set[str]) -> None:
        """A new v1 cpuset is empty and nothing can join it: copy cpus and mems down from the first ancestor that has some.
        `made`: directories that were not there before, and so need no look."""
        point = self.tree.v1.get("cpuset")
        if point is None:
            return
        for file in ("cpuset.cpus", "cpuset.mems"):
            here, above = point, ""
            for part in self.path.strip("/").split("/"):
                here = f"{here}/{part}"
                own = "" if here in made else files.read(f"{here}/{file}").strip()
                if not own:
                    own = above or files.read(f"{os.path.dirname(here)}/{file}").strip()
                    files.write(f"{here}/{file}", own)
                above = own

    def _enable_v2_controllers(self, resources: dict[str, Any]) -> None:
        """A controller works in a cgroup when every ancestor hands it down; only what v2 governs and v1 does not."""
        if not self.tree.v2 or not self.tree.v2_controllers:
            return
        wanted = sorted(self.tree.v2_controllers - set(self.tree.v1))
        if self.unified and set(wanted).issubset(files.read(self.unified + "/cgroup.controllers").split()):
            return  # handed down to here already
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
        if self.scope is not None and not creating:
            self.scope.update(resources, v1=bool(self.tree.v1))
        again = []
        for controller, path, value, required in self._writes(resources):
            try:
                _write(path, value, required)
            except CgroupRefused as error:
                # memory and its sum with swap, quota and burst: each may have to be moved before the other may
                if controller not in ("memory", "cpu") or error.extra.get("errno") not in (errno.EINVAL, errno.EBUSY):
                    raise
                again.append((path, value, required))
        for path, value, required in again:
            _write(path, value, required)
        if not creating and "devices" in resources:
            self._apply_devices(resources["devices"])

    def _writes(self, resources: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
        """(controller, path, value, whether the file has to exist), in the order to write."""
        for controller, file, value, required in v1.settings(resources, self._v1("blkio") or ""):
            if controller in self.tree.v1:
                yield controller, f"{self.tree.v1[controller]}{self.path}/{file}", value, required
            elif required and controller != "blkio" and controller not in self.tree.v2_controllers:
                raise CgroupRefused(f"{file} is asked for, but this machine mounts no {controller} cgroup controller")
        if self.unified:
            self._check_usage(resources.get("memory") or {})
            for controller, file, value, required in v2.settings(v2.governed(resources, self.tree.v1), self.unified):
                yield controller, f"{self.unified}/{file}", value, required and self._v2_has(controller, file)
        elif resources.get("unified"):
            raise CgroupRefused("resources.unified is asked for, but this machine mounts no cgroup v2")

    def _check_usage(self, memory: dict[str, Any]) -> None:
        """memory.checkBeforeUpdate: v2 kills rather than refuses, so do the refusing of v1's kernel here."""
        limit = memory.get("limit") or -1
        if not memory.get("checkBeforeUpdate") or limit < 0 or "memory" in self.tree.v1:
            return
        used = files.number(f"{self.unified}/memory.current")
        if used is not None and used > limit:
            raise CgroupRefused(f"memory.limit {limit} is below the {used} bytes in use, and memory.checkBeforeUpdate is set")

    def _v2_has(self, controller: str, file: str) -> bool:
        if controller in self.tree.v1:
            raise CgroupRefused(f"invalid configuration: {file} is asked for, but here cgroup v1 has the {controller} controller")
        if controller in self.tree.v2_controllers or controller == "cgroup":
            return True
        raise CgroupRefused(f"{file} is asked for, but cgroup v2 on this machine has no {controller} controller")

    def _apply_devices(self, wanted: Any) -> None:
        if not privileged():
            return  # the kernel takes device rules from root alone, and a user namespace can make no device
        ordered = devices.rules(wanted)
        if "devices" in self.tree.v1:
            for file, lines in devices.v1_writes(ordered):
                _write(f"{self.tree.v1['devices']}{self.path}/{file}", lines, True)
        elif self.unified:
            attach_devices(self.unified, ordered)

    # -- life

    def pids(self) -> list[int]:
        """Every process in the cgroup and below it."""
        found: dict[int, None] = {}
        for directory in self._any_directory():
            for line in files.read(directory + "/cgroup.procs").split():
                found[int(line)] = None
        return list(found)

    def freezer(self) -> Freezer:
        return Freezer(self.unified, self._v1("freezer"))

    def freeze(self) -> None:
        """Stop every process; returns when all have stopped. Raises Unavailable after 5 s."""
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def frozen(self) -> bool:
        return self.freezer().frozen()

    def _set_frozen(self, frozen: bool) -> None:
        freezer = self.freezer()
        if not freezer.usable():
            raise CgroupRefused(
                "the container has no cgroup that could be frozen: this machine mounts neither cgroup v2 nor the v1 freezer, or"
                " none was delegated to the user who made it"
            )
        if not freezer.set(frozen, FREEZE_SECONDS):
            if frozen:
                freezer.thaw_now()
            raise Unavailable(
                f"the processes of {self.path} did not {'stop' if frozen else 'resume'} within {FREEZE_SECONDS:.0f} s"
            )

    def kill(self) -> None:
        """SIGKILL for every process; a fork cannot outrun it. Does not wait for the deaths."""
        freezer = self.freezer()
        if self.unified and tree.exists(self.unified + "/cgroup.kill"):
            files.write(self.unified + "/cgroup.kill", "1")
            freezer.thaw_v1()
            return
        if freezer.usable():
            freezer.set(True, FREEZE_SECONDS)  # if that takes too long, what there is is killed; a frozen half cannot fork
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # died by itself
        freezer.thaw_now()

    def stats(self) -> dict[str, Any]:
        """See `stats.collect` for the shape."""
        return stats.collect(self._v1, self._unified_or_none())

    def oom_count(self) -> int:
        return stats.oom_kills(self._v1("memory"), self._unified_or_none())

    def pressure_triggers(self) -> dict[int, str]:
        """See `pressure.open_triggers`."""
        return pressure.open_triggers(self._unified_or_none())

    def remove(self, seconds: float = 1.0) -> bool:
        """Remove the directories, with any that the container made below. The kernel empties a cgroup some time after its last
        process was reaped: retried until `seconds` have passed. False if something is still busy: call again later."""
        self.close()
        if self.scope is not None:
            self._stop_scope()
        deadline = time.monotonic() + seconds
        pause = 0.001
        while True:
            left = [directory for directory in self._directories() if not tree.remove(directory)]
            if not left:
                return True
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _stop_scope(self) -> None:
        if self.scope is not None and self.exists():
            try:
                self.scope.stop()
            except (WharfError, OSError):
                pass  # systemd ends an empty scope by itself, and without systemd the directories go as any others

    def exists(self) -> bool:
        return any(tree.exists(directory) for directory in self._directories())

    # -- where

    def _directories(self) -> list[str]:
        return [*self.v1_dirs.values(), *((self.unified,) if self.unified else ())]

    def _any_directory(self) -> list[str]:
        """The directories that list the processes: v2's, else v1's pids or any other, and all below."""
        if self.unified and tree.exists(self.unified):
            return tree.below(self.unified)
        top = self._v1("pids") or next(iter(self.v1_dirs.values()), None)
        return tree.below(top) if top else []

    def _v1(self, controller: str) -> str | None:
        point = self.tree.v1.get(controller)
        return point + self.path if point else None

    def _unified_or_none(self) -> str | None:
        return self.unified if self.unified and tree.exists(self.unified) else None


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


def _open_within(directory: str, path: str, flags: int) -> list[int]:
    """`path` opened; [] if there is no `directory`, which it is in or is itself."""
    try:
        return [os.open(path, flags | os.O_CLOEXEC)]
    except FileNotFoundError:
        if tree.exists(directory):
            raise
        return []


def _write(path: str, value: str | list[str], required: bool) -> None:
    """`value`: each of a list is a write of its own, as the kernel wants its device rules."""
    try:
        files.write(path, value)
    except FileNotFoundError as error:
        if required:
            raise CgroupRefused(f"the kernel has no {path}, which {value!r} should be written to") from error
    except OSError as error:
        raise CgroupRefused(f"the kernel refuses {value!r} in {path}: {error.strerror}", errno=error.errno) from error
