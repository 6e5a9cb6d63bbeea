"""Run one more process in a container: one setns for all namespaces, then a clone for its pid namespace."""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime import child, container, devfs, launch
from agent.runtime.cgroup import Cgroup
from agent.runtime.container import Init, Stdio
from agent.runtime.errors import RuntimeFailed, WrongState
from agent.runtime.plan import CLONE_FLAGS, Plan, ProcessPlan
from agent.sys import cred, process, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn


def exec_in(
    plan: Plan,
    pid: int,
    process_config: dict[str, Any],
    io: Stdio,
    *,
    start_time: int = 0,
    keep_fds: int = 0,
    ignore_paused: bool = False,
    below: Mapping[str, str] | None = None,
) -> Init:
    """Start `process_config` (an OCI process object) beside the container's init `pid`; it runs when this returns.

    Raises ExecFailed as Init.start does (the child is reaped then), WrongState when the container is paused or gone.
    `start_time` guards against a pid that was reused; `below` names cgroups within the container's (see Cgroup.open). The calling
    process must have one thread.
    """
    what = ProcessPlan(process_config)
    cgroup = Cgroup(plan.cgroup_path)
    if not ignore_paused and cgroup.frozen():
        raise WrongState(f"container {plan.id} is paused; resume it first")
    target = _open_container(plan, pid, start_time)
    init = Init(plan, cgroup, None)
    try:
        cgroup.open(below)
        ours, theirs = wire.pair()
        try:
            wires = child.Wires(theirs, (io.stdin_fd, io.stdout_fd, io.stderr_fd), None)
            wires.keep_fds, wires.plain_newlines = keep_fds, io.plain_newlines
            wires.joins = [(target, _namespaces(plan))]
            _spawn(plan, what, cgroup, wires, init)
            theirs.close()
            container.converse(plan, init, ours, staged=True)
            init.start_time = process.start_time(init.pid)
            _finish(plan, what, init, ours)
        except BaseException:
            _give_up(init)
            raise
        finally:
            ours.close()
            theirs.close()
    finally:
        os.close(target)
        cgroup.close()
    return init


def _open_container(plan: Plan, pid: int, start_time: int) -> int:
    try:
        target = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise WrongState(f"container {plan.id} is not running") from error
    try:
        if start_time and process.start_time(pid) != start_time:
            raise WrongState(f"container {plan.id} is not running; its pid {pid} belongs to another process")
    except OSError as error:
        os.close(target)
        raise WrongState(f"container {plan.id} is not running") from error
    except WrongState:
        os.close(target)
        raise
    return target


def _namespaces(plan: Plan) -> int:
    """Every namespace that the container has of its own or joined."""
    flags = plan.clone_flags
    for _, flag, _ in plan.joins:
        flags |= flag
    if plan.new_cgroup:
        flags |= CLONE_FLAGS["cgroup"]
    if plan.new_time:
        flags |= CLONE_FLAGS["time"]
    return flags


def _spawn(plan: Plan, what: ProcessPlan, cgroup: Cgroup, wires: child.Wires, init: Init) -> None:
    init.pid, init.pidfd = process.clone3(0, cgroup.unified_fd)
    if init.pid == 0:
        child.guarded(wires, lambda progress: _first_stage(plan, what, cgroup, wires, progress))


def _first_stage(plan: Plan, what: ProcessPlan, cgroup: Cgroup, wires: child.Wires, progress: child.Progress) -> int:
    progress.stage = "isolate"
    wires.close_others(cgroup.tasks_fds)
    launch.isolate(what)  # not dumpable before any namespace of the container is entered (CVE-2016-9962)
    progress.stage = "cgroup"
    cgroup.join()
    progress.stage = "namespaces"
    child.join(wires)
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone3(process.CLONE_PARENT)
    if pid == 0:
        os.close(tell)
        os.read(told, 1)  # until our pid was sent: no message of ours may overtake that
        os.close(told)
        _second_stage(plan, what, wires)
    wires.channel.send(b"P", b"%d" % pid, [pidfd])
    os._exit(0)


def _second_stage(plan: Plan, what: ProcessPlan, wires: child.Wires) -> NoReturn:
    child.guarded(wires, lambda progress: _launch(plan, what, wires, progress))


def _launch(plan: Plan, what: ProcessPlan, wires: child.Wires, progress: child.Progress) -> int:
    progress.stage = "isolate"
    os.setsid()
    if _namespaces(plan) & process.CLONE_NEWUSER:
        cred.set_ids(0, 0, [])
        process.prctl(process.PR_SET_DUMPABLE, 0)
    slave = -1
    if what.terminal:
        progress.stage = "console"
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        master, slave = devfs.open_console(root)
        if wires.plain_newlines:
            tty.plain_newlines(slave)
        wires.channel.send(b"C", b"", [master])
        os.close(master)
    progress.stage = "process"
    if plan.personality is not None:
        process.personality(plan.personality)
    launch.enter_directory(what.cwd, create=False)
    launch.limits(what)
    env = launch.with_home(what)
    launch.wire_stdio(what, wires.stdio, slave)
    progress.stage = "capabilities"
    keep_admin = plan.seccomp is not None and not what.no_new_privs
    launch.drop(what, keep_admin)
    wires.channel.send(b"R")
    progress.stage = "seccomp"

    def hand_over(fd: int) -> None:
        wires.channel.send(b"L", b"%d" % fd)
        if wires.channel.receive()[0] != b"S":
            os._exit(1)

    return launch.execute(what, plan.seccomp, plan.seccomp_flags, env, wires.keep_fds, hand_over, keep_admin)


def _finish(plan: Plan, what: ProcessPlan, init: Init, channel: wire.Channel) -> None:
    """Wait until execve has closed the child's end, or report why it did not."""
    kind, payload, _ = channel.receive()
    if kind == b"L":
        init.deliver_listener(int(payload))
        channel.send(b"S")
        kind, payload, _ = channel.receive()
    if kind == b"E":
        raise container.failure(payload, what.args[0], plan.id)
    if kind:
        raise RuntimeFailed(f"unexpected message {kind!r} from an exec", stage="exec", errno=0)


def _give_up(init: Init) -> None:
    if init.pidfd >= 0:
        container.kill_and_reap(init)
    if init.console_fd >= 0:
        os.close(init.console_fd)
        init.console_fd = -1
