"""Create and start a container from a plan: the parent's side."""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime import child, conversation, hooks, rootfs, userns
from agent.runtime.cgroup import Cgroup
from agent.runtime.conversation import reap
from agent.runtime.errors import InvalidConfig, RuntimeFailed
from agent.runtime.ownership import cgroup_owner
from agent.sys import mountapi as api
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
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
        starting = self._starting()
        try:
            starting.finish()
        except RuntimeFailed as error:
            if _by_hook(error):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # not reaped by us, so the number is still its own
            raise

    def starting(self) -> conversation.Start:
        """The same in steps that do not wait. A process whose poststart hooks fail is the caller's to kill."""
        if self._channel is not None:
            self._channel.unblock()
        return self._starting()

    def _starting(self) -> conversation.Start:
        check_startable(self._plan)
        channel, self._channel = self._channel, None
        if channel is None:
            raise RuntimeFailed("the container was started before, or is started through its gate", stage="start", errno=0)
        return conversation.Start(self._plan, self, channel)

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


class Creation:
    """A container being made, in steps (see conversation): namespaces, cgroup, root filesystem, identity, all but the exec.

    `init` is what becomes of it. `stepped`: by a loop that collects every child that ends, so nothing here waits for one; the
    cgroup of a creation that failed or was given up is then the caller's to remove, once it is empty. The others: see `create`.
    """

    __slots__ = ("_error", "_plan", "_set_up", "_stepped", "init")

    def __init__(
        self,
        plan: Plan,
        io: Stdio,
        *,
        gate: tuple[int, int] | None = None,
        keep_fds: int = 0,
        pivot: bool = True,
        keyring: bool = True,
        look_up: bool = False,
        sibling: bool = False,
        stepped: bool = False,
    ) -> None:
        """The process exists when this returns. Raises RuntimeFailed with extra.stage; nothing is left then."""
        self._plan = plan
        self._stepped = stepped
        self._error: RuntimeFailed | None = None
        cgroup = Cgroup(plan.cgroup_path)
        cgroup.create(plan.resources, cgroup_owner(plan))
        self.init = init = Init(plan, cgroup, None)
        try:
            ours, theirs = wire.pair()
            try:
                wires = child.Wires(theirs, (io.stdin_fd, io.stdout_fd, io.stderr_fd), gate)
                wires.keep_fds, wires.pivot, wires.keyring, wires.look_up = keep_fds, pivot, keyring, look_up
                wires.plain_newlines = io.plain_newlines
                _begin(plan, init, wires, not io.terminal, process.CLONE_PARENT if sibling else 0)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
                cgroup.close()
        except BaseException:
            destroy(init)
            raise
        init._channel = ours
        if stepped:
            ours.unblock()
        self._set_up: conversation.SetUp | conversation.Aftermath = conversation.SetUp(
            plan, init, ours, staged=init.staged, reaps=not stepped
        )

    def fileno(self) -> int:
        return self._set_up.fileno()

    @property
    def due(self) -> float | None:
        return self._set_up.due

    @property
    def hook(self) -> hooks.Series | None:
        return self._set_up.hook

    def step(self) -> bool:
        """Whether the process waits to be started. Raises RuntimeFailed with extra.stage, and OSError; it is given up then."""
        try:
            if not self._set_up.step():
                return False
            if self._error is None:
                self._settle()
        except RuntimeFailed as error:
            self.abandon()
            if self._error is None and _by_hook(error) and self._plan.hooks.get("poststop"):
                self._error = error
                self._set_up = conversation.Aftermath(self._plan)
                return self.step()
            raise
        except BaseException:
            self.abandon()
            raise
        if self._error is not None:
            raise self._error
        return True

    def finish(self) -> Init:
        """Step to the end."""
        while not self.step():
            if self.hook is not None:
                self.hook.wait()
        return self.init

    def abandon(self) -> None:
        """Give it up."""
        self._set_up.abandon()
        self.init._channel = None
        destroy(self.init, wait=not self._stepped)

    def _settle(self) -> None:
        init, plan = self.init, self._plan
        init.cgroup.settle()
        if plan.resctrl is not None:
            plan.resctrl.assign(init.pid)
        init.start_time = process.start_time(init.pid)


def create(plan: Plan, io: Stdio, **options: Any) -> Init:
    """A container whose process waits to be started. `options` are Creation's, which see.

    Raises RuntimeFailed with extra.stage; nothing of a failed container is left. `gate`: (start, status) pipes through which
    another process will start it. `look_up`: fail now (ExecFailed) when the program is not there. `sibling`: the container
    becomes a child of the caller's parent, who alone can reap it. The calling process must have one thread.
    """
    return Creation(plan, io, **options).finish()


def _by_hook(error: RuntimeFailed) -> bool:
    return str(error.extra["stage"]).startswith("hook ")


def _begin(plan: Plan, init: Init, wires: child.Wires, streams: bool, flags: int) -> None:
    """Open what the child is to be given, and clone it. `streams`: its standard streams are to be made its own."""
    supplied = rootfs.Supplied()
    try:
        _supply(plan, supplied)
        if not plan.new_user:
            userns.prepare(plan, supplied)
        elif streams:
            userns.own_streams(plan, plan.process.uid, wires.stdio)
        wires.supplied = list(supplied.binds.values())
        _open_joins(plan, wires)
        init.pid, init.pidfd = _clone(plan, init.cgroup, wires, supplied, flags)
    finally:
        for fd in [*(fd for fd, _ in wires.joins), *supplied.descriptors(), wires.mounts_elsewhere]:
            if fd >= 0:
                os.close(fd)


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


def kill_and_reap(init: Init) -> None:
    _kill(init)
    reap(init.pidfd)
    init.pidfd = -1


def _kill(init: Init) -> None:
    try:
        signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # already dead


def destroy(init: Init, wait: bool = True) -> None:
    """Kill and reap whatever a failed creation left, and remove its cgroup. `wait` False: kill only, others do the rest."""
    if init.pidfd >= 0:
        if wait:
            kill_and_reap(init)
        else:
            _kill(init)
            os.close(init.pidfd)
            init.pidfd = -1
    if init.console_fd >= 0:
        os.close(init.console_fd)
        init.console_fd = -1
    if wait or init.cgroup.exists():
        init.cgroup.kill()
    if wait:
        init.cgroup.remove()
    if init._plan.resctrl is not None:
        init._plan.resctrl.remove()
