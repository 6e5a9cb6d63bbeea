"""Run one more process in a container: one setns for all namespaces, then a clone for its pid namespace."""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime import child, container, conversation, devfs, labels, launch, userns
from agent.runtime.cgroup import Cgroup, files
from agent.runtime.container import Init, Stdio
from agent.runtime.errors import InvalidConfig, RuntimeFailed, WrongState
from agent.runtime.plan import CLONE_FLAGS, Plan
from agent.runtime.processplan import ProcessPlan
from agent.sys import process, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any, NoReturn
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor


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
    what = ProcessPlan(process_config, plan.annotations)
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
            wires.joins = [(target, _namespaces(plan))] if _namespaces(plan) else []
            if not plan.new_mount:  # its root is in nobody's mount namespace, so joining does not lead there
                wires.root = _open_root(plan, pid, target)
                wires.supplied = [wires.root]
            wires.groups_denied = wires.ordinary and _groups_denied(pid)
            if not what.terminal:
                userns.own_streams(plan, what.uid, wires.stdio)
            _spawn(plan, what, cgroup, wires, init)
            theirs.close()
            conversation.SetUp(plan, init, ours, staged=True).finish()
            init.start_time = process.start_time(init.pid)
            _finish(plan, what, init, ours)
        except BaseException:
            _give_up(init)
            raise
        finally:
            ours.close()
            theirs.close()
            if wires.root >= 0:
                os.close(wires.root)
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


def _open_root(plan: Plan, pid: int, pidfd: int) -> int:
    """The root directory of the process that `pidfd` stands for."""
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise WrongState(f"container {plan.id} is not running") from error
    try:
        signal.pidfd_send_signal(pidfd, 0)  # still there, so the number was its own
    except ProcessLookupError as error:
        os.close(root)
        raise WrongState(f"container {plan.id} is not running") from error
    return root


def _groups_denied(pid: int) -> bool:
    """Whether setgroups(2) is denied where `pid` is (user_namespaces(7))."""
    return files.read(f"/proc/{pid}/setgroups").strip() == "deny"


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
    # spec: on these processors until it is in its cgroup; a child begins where its parent is
    before = os.sched_getaffinity(0) if what.affinity[0] else set()
    if before:
        _run_on(what.affinity[0], "initial")
    try:
        init.pid, init.pidfd = process.clone3(0, cgroup.unified_fd)
        if init.pid == 0:
            child.guarded(wires, lambda progress: _first_stage(plan, what, cgroup, wires, progress))
    finally:
        if before:
            os.sched_setaffinity(0, before)


def _run_on(processors: list[int], key: str) -> None:
    try:
        os.sched_setaffinity(0, processors)
    except OSError as error:
        raise InvalidConfig(f"process.execCPUAffinity.{key} names no processor that may be used: {error.strerror}") from error


def _first_stage(plan: Plan, what: ProcessPlan, cgroup: Cgroup, wires: child.Wires, progress: child.Progress) -> int:
    progress.stage = "isolate"
    wires.close_others(cgroup.tasks_fds)
    launch.isolate(what)  # not dumpable before any namespace of the container is entered (CVE-2016-9962)
    progress.stage = "cgroup"
    cgroup.join()
    if what.affinity[1]:
        _run_on(what.affinity[1], "final")
    progress.stage = "namespaces"
    child.join(wires)
    if wires.root >= 0:
        os.fchdir(wires.root)
        os.chroot(b".")
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
        child.take_root(wires)
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
    launch.keyring()
    launch.machine(plan)
    launch.enter_directory(what.cwd, create=False)
    launch.limits(what)
    env = launch.with_home(what)
    launch.wire_stdio(what, wires.stdio, slave)
    labelled = labels.prepare(what.labels)
    progress.stage = "capabilities"
    keep_admin = plan.seccomp is not None and not what.no_new_privs
    launch.drop(what, keep_admin, wires.groups_denied)
    wires.channel.send(b"R")
    labels.apply(labelled)
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
        raise conversation.failure(payload, what.args[0], plan.id)
    if kind:
        raise RuntimeFailed(f"unexpected message {kind!r} from an exec", stage="exec", errno=0)


def _give_up(init: Init) -> None:
    if init.pidfd >= 0:
        container.kill_and_reap(init)
    if init.console_fd >= 0:
        os.close(init.console_fd)
        init.console_fd = -1
