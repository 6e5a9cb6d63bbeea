"""Create and start a container from a plan: the parent's side."""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime import child, hooks, netdevices, rootfs, spec, userns
from agent.runtime.cgroup import Cgroup
from agent.runtime.errors import ExecFailed, InvalidConfig, RuntimeFailed, exit_code
from agent.runtime.ownership import cgroup_owner
from agent.sys import mountapi as api
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.channel import Channel
    from agent.runtime.plan import Plan
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor


class Stdio:
    """Descriptors that become 0, 1, 2 of the container, inherited, never closed by us; ignored with a terminal.

    `plain_newlines`: the terminal leaves \\n as it is, for a caller who relays it to a terminal or pipe of his own.
    """

    __slots__ = ("plain_newlines", "stderr_fd", "stdin_fd", "stdout_fd", "terminal")

    def __init__(self, stdin_fd: int = 0, stdout_fd: int = 1, stderr_fd: int = 2, terminal: bool = False) -> None:
        self.stdin_fd, self.stdout_fd, self.stderr_fd, self.terminal = stdin_fd, stdout_fd, stderr_fd, terminal
        self.plain_newlines = False


class Init:
    """A process that runs, or waits to run, in a container.

    pid, pidfd (the caller's to close and to wait on), start_time (clock ticks since boot: with pid and boot id it names the
    process), console_fd (pty master, the caller's to close) or -1.
    """

    __slots__ = ("_channel", "_plan", "cgroup", "console_fd", "pid", "pidfd", "start_time")

    def __init__(self, plan: Plan, cgroup: Cgroup, channel: Channel | None) -> None:
        self._plan = plan
        self._channel = channel
        self.cgroup = cgroup
        self.pid = self.pidfd = self.console_fd = -1
        self.start_time = 0

    def start(self) -> None:
        """Let the created process exec. Raises ExecFailed (extra.errno, extra.exit_code); it is then dead, but not reaped."""
        check_startable(self._plan)
        channel, self._channel = self._channel, None
        if channel is None:
            raise RuntimeFailed("the container was started before, or is started through its gate", stage="start", errno=0)
        try:
            channel.send(b"S")
            kind, payload, _ = channel.receive()
            if kind == b"L":
                self.deliver_listener(int(payload))
                channel.send(b"S")
                kind, payload, _ = channel.receive()
        except BrokenPipeError as error:
            raise RuntimeFailed("the container's process died before it was started", stage="start", errno=32) from error
        finally:
            channel.close()
        if kind == b"E":
            raise failure(payload, self._plan.process.args[0], self._plan.id)
        if "poststart" in self._plan.hooks:
            self._poststart()

    def _poststart(self) -> None:
        try:
            plan = self._plan
            hooks.run(plan.hooks["poststart"], "poststart", state_of(plan, "running", self.pid), plan.annotations)
        except RuntimeFailed:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # not reaped by us, so the number is still its own
            raise

    @classmethod
    def taken(cls, plan: Plan, pid: int, start_time: int, pidfd: int, channel_fd: int, console_fd: int) -> Init:
        """What another process created from the same plan and let go of with `let_go`."""
        init = cls(plan, Cgroup(plan.cgroup_path), wire.Channel.of(channel_fd))
        init.pid, init.start_time, init.pidfd, init.console_fd = pid, start_time, pidfd, console_fd
        return init

    @property
    def staged(self) -> bool:
        """Whether a first process joined namespaces for it: with `sibling`, a child that the caller's parent has to reap."""
        return _two_stages(self._plan)

    def let_go(self) -> list[int]:
        """Descriptors that another process needs in order to go on: pidfd, channel, and the console if there is one."""
        channel = self._channel
        if channel is None:
            raise RuntimeFailed("the container was started before", stage="start", errno=0)
        return [self.pidfd, channel.fileno(), *([self.console_fd] if self.console_fd >= 0 else [])]

    def abandon(self) -> None:
        """Close the channel of a container that is started by another process, through its gate."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def deliver_listener(self, number: int) -> None:
        """Send the seccomp listener and the container process state to the socket that the profile names."""
        from agent.runtime import listener

        listener.deliver(self._plan, self.pid, self.pidfd, number)


def check_startable(plan: Plan) -> None:
    """Raises InvalidConfig for a container that was created without `process`: it can only be deleted."""
    if not plan.config.get("process"):
        raise InvalidConfig("process is missing in config.json; it says what to run")


def create(
    plan: Plan,
    io: Stdio,
    *,
    gate: tuple[int, int] | None = None,
    keep_fds: int = 0,
    pivot: bool = True,
    keyring: bool = True,
    look_up: bool = False,
    sibling: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> Init:
    """Namespaces, cgroup, root filesystem, identity: everything but the exec, for which the child waits.

    Raises RuntimeFailed with extra.stage; nothing of a failed container is left. `gate`: (start, status) pipes through which
    another process will start it. `look_up`: fail now (ExecFailed) when the program is not there. `sibling`: the container
    becomes a child of the caller's parent, who alone can reap it. `meanwhile` is called while the child sets itself up; what it
    raises undoes the creation. The calling process must have one thread.
    """
    cgroup = Cgroup(plan.cgroup_path)
    cgroup.create(plan.resources, cgroup_owner(plan))
    init = Init(plan, cgroup, None)
    try:
        ours, theirs = wire.pair()
        try:
            wires = child.Wires(theirs, (io.stdin_fd, io.stdout_fd, io.stderr_fd), gate)
            wires.keep_fds, wires.pivot, wires.keyring, wires.look_up = keep_fds, pivot, keyring, look_up
            wires.plain_newlines = io.plain_newlines
            supplied = rootfs.Supplied()
            try:
                _supply(plan, supplied)
                if not plan.new_user:
                    userns.prepare(plan, supplied)
                elif not io.terminal:
                    userns.own_streams(plan, plan.process.uid, wires.stdio)
                wires.supplied = list(supplied.binds.values())
                _open_joins(plan, wires)
                init.pid, init.pidfd = _clone(plan, cgroup, wires, supplied, process.CLONE_PARENT if sibling else 0)
            finally:
                for fd in [*(fd for fd, _ in wires.joins), *supplied.descriptors(), wires.mounts_elsewhere]:
                    if fd >= 0:
                        os.close(fd)
                theirs.close()
                cgroup.close()
            if meanwhile is not None:
                meanwhile()
            converse(plan, init, ours, staged=_two_stages(plan))
            cgroup.settle()
            if plan.resctrl is not None:
                plan.resctrl.assign(init.pid)
            init.start_time = process.start_time(init.pid)
        except BaseException:
            ours.close()
            raise
    except BaseException as error:
        destroy(init)
        _after_failed_hook(plan, error)
        raise
    init._channel = ours
    return init


def _after_failed_hook(plan: Plan, error: BaseException) -> None:
    """spec, lifecycle: a container that a hook stops goes on as after a delete, so its poststop hooks run."""
    if isinstance(error, RuntimeFailed) and str(error.extra["stage"]).startswith("hook "):
        plan.warnings += hooks.run_all(plan.hooks.get("poststop", []), "poststop", state_of(plan, "stopped", 0))


def _two_stages(plan: Plan) -> bool:
    """Whether a process has to join namespaces before the one that runs can be cloned into new ones.

    A pid namespace takes only later children; a namespace owned by the host cannot be joined from a new user namespace.
    """
    return bool(plan.joins) and (plan.new_user or any(kind in ("user", "pid") for kind, _, _ in plan.joins))


def _open_joins(plan: Plan, wires: child.Wires) -> None:
    mounts = "" if plan.new_mount else "/proc/self/ns/mnt"
    for kind, flag, path in plan.joins:
        if kind == "mount":
            mounts = path
        else:
            wires.joins.append((_open_namespace(path), flag))
    if mounts:
        wires.mounts_elsewhere = _open_namespace(mounts)


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailed(
            f"namespace {path} cannot be opened: {error.strerror}", stage="namespaces", errno=error.errno
        ) from error


def _supply(plan: Plan, supplied: rootfs.Supplied) -> None:
    try:
        rootfs.supply(plan, supplied)
    except OSError as error:
        raise RuntimeFailed(f"the root filesystem cannot be made: {error.strerror}", stage="rootfs", errno=error.errno) from error


def _clone(plan: Plan, cgroup: Cgroup, wires: child.Wires, supplied: rootfs.Supplied, parent: int) -> tuple[int, int]:
    if _two_stages(plan):
        pid, pidfd = process.clone3(parent, cgroup.unified_fd)
        if pid == 0:
            child.guarded(wires, lambda progress: _first_stage(plan, cgroup, wires, supplied, progress))
        return pid, pidfd
    pid, pidfd = process.clone3(child.birth_flags(plan) | parent, cgroup.unified_fd)
    if pid == 0:
        child.init(plan, cgroup, wires, supplied, staged=False)
    return pid, pidfd


def _first_stage(plan: Plan, cgroup: Cgroup, wires: child.Wires, supplied: rootfs.Supplied, progress: child.Progress) -> int:
    """Join what is to be joined, clone the container's process as our sibling, and be gone."""
    from agent.runtime import launch

    wires.close_others(cgroup.tasks_fds + supplied.descriptors())
    launch.isolate(plan.process, dumpable=wires.ordinary and plan.new_user)
    progress.stage = "cgroup"
    cgroup.join()
    progress.stage = "namespaces"
    child.join(wires)
    wires.joins = []
    if plan.new_user and any(kind == "network" for kind, _, _ in plan.joins):
        # sysfs shows a network namespace, and only its owner's user namespace may mount it
        supplied.sysfs = api.new_filesystem(b"sysfs", [], api.MOUNT_ATTR_RDONLY)
        progress.stage = "sysctl"
        rootfs.write_sysctls([item for item in plan.sysctls if rootfs.of_network(item)])
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone3(child.birth_flags(plan) | process.CLONE_PARENT)
    if pid == 0:
        os.close(tell)
        os.read(told, 1)  # until our pid was sent: no message of ours may overtake that
        os.close(told)
        child.init(plan, cgroup, wires, supplied, staged=True)
    wires.channel.send(b"P", b"%d" % pid, [pidfd])
    os._exit(0)


def converse(plan: Plan, init: Init, channel: Channel, staged: bool) -> None:
    """Answer the child until it is ready (R), or raise what it reports."""
    early = _meet_second_stage(init, channel) if staged else []
    while True:
        kind, payload, fds = early.pop(0) if early else channel.receive()
        if kind == b"R":
            return
        if kind == b"C":
            init.console_fd = fds[0]
        elif kind == b"U":
            userns.serve(plan, init.pid, channel)
        elif kind == b"N":
            netdevices.move(plan.net_devices, init.pid)
            channel.send(b"G")
        elif kind == b"H":
            for point in ("prestart", "createRuntime"):
                hooks.run(plan.hooks.get(point, []), point, state_of(plan, "created", init.pid), plan.annotations)
            channel.send(b"G")
        elif kind == b"E":
            raise failure(payload, plan.process.args[0], plan.id)
        else:
            raise RuntimeFailed(
                "the container's process died during its set-up; a memory limit too small for it, or a kill, is the usual cause",
                stage="set-up",
                errno=0,
            )


def _meet_second_stage(init: Init, channel: Channel) -> list[tuple[bytes, bytes, list[int]]]:
    """Wait for the first stage to name the second (P). The second may speak first: what it said is returned."""
    early: list[tuple[bytes, bytes, list[int]]] = []
    while True:
        message = channel.receive()
        if message[0] == b"P":
            reap(init.pidfd)
            init.pid, init.pidfd = int(message[1]), message[2][0]
            return early
        early.append(message)
        if not message[0]:  # the first stage failed; what it said before says why
            return early


def failure(payload: bytes, program: bytes, id: str) -> RuntimeFailed:
    """The error that the child reported."""
    stage, number, text = wire.unpack_failure(payload)
    if stage == "exec":
        name = program.decode(errors="replace")
        detail = f"cannot run {name!r}: {text}"
        return ExecFailed(detail, stage=stage, errno=number, exit_code=exit_code(number), program=name)
    return RuntimeFailed(f"container {id} failed at {stage}: {text}", stage=stage, errno=number)


def reap(pidfd: int) -> None:
    """Wait for a child that is ending, and close its pidfd."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        pass  # reaped by somebody else
    os.close(pidfd)


def kill_and_reap(init: Init) -> None:
    try:
        signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # already dead
    reap(init.pidfd)
    init.pidfd = -1


def destroy(init: Init) -> None:
    """Kill and reap whatever a failed creation left, and remove its cgroup."""
    if init.pidfd >= 0:
        kill_and_reap(init)
    if init.console_fd >= 0:
        os.close(init.console_fd)
        init.console_fd = -1
    init.cgroup.kill()
    init.cgroup.remove()
    if init._plan.resctrl is not None:
        init._plan.resctrl.remove()


def state_of(plan: Plan, status: str, pid: int) -> dict[str, Any]:
    """The OCI state object (runtime-spec, "State")."""
    return oci_state(plan.id, status, pid, plan.bundle, plan.annotations)


def oci_state(id: str, status: str, pid: int, bundle: str, annotations: dict[str, str]) -> dict[str, Any]:
    """The same of a container whose plan is not at hand."""
    return {"ociVersion": spec.VERSION, "id": id, "status": status, "pid": pid, "bundle": bundle, "annotations": annotations}
