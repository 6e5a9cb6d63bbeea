"""What the container's first process does between clone3 and execve.

It is a copy of the single-threaded parent: no thread of ours exists here, no lock may be waited for, nothing may return to the
caller. Every failure travels back over the channel with the step it happened in.
"""

from __future__ import annotations

import os

from agent.protocol.errors import WharfError
from agent.runtime import channel as wire
from agent.runtime import devfs, hooks, idmap, labels, launch, lock, rootfs, spec
from agent.runtime.privilege import privileged
from agent.sys import cred, landlock, loopback, process, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from agent.runtime.cgroup import Cgroup
    from agent.runtime.channel import Channel
    from agent.runtime.plan import Plan


# made by the container's root: before the maps are written, /proc/net and /dev/mqueue would belong to an id that it does not have
_AFTER_THE_MAPS = process.CLONE_NEWNET | process.CLONE_NEWIPC


class Wires:
    """The child's descriptors. `gate`: (start, status) of a container whose start is given by another process, or None."""

    __slots__ = (
        "channel", "gate", "groups_denied", "joins", "keep_fds", "keyring", "look_up", "mounts_elsewhere", "ordinary", "pivot",
        "plain_newlines", "root", "stdio", "supplied",
    )  # fmt: skip

    def __init__(self, channel: Channel, stdio: tuple[int, int, int], gate: tuple[int, int] | None) -> None:
        self.channel = channel
        self.stdio = stdio
        self.gate = gate
        self.joins: list[tuple[int, int]] = []  # descriptor, CLONE_NEW flag
        self.supplied: list[int] = []  # mounts
        # a mount namespace that is not the container's alone, entered once the root is whole: its parts are found by our paths
        self.mounts_elsewhere = -1
        self.root = -1  # of a container whose root no namespace leads to
        self.ordinary = not privileged()  # the maker is not root, and we may do no more than he
        self.groups_denied = False
        self.keep_fds = 0
        self.look_up = False
        self.pivot = True
        self.plain_newlines = False
        self.keyring = True

    def close_others(self, more: list[int]) -> None:
        """Every descriptor of the parent that the child has no use for."""
        keep = [self.channel.fileno(), *self.stdio, *(self.gate or ()), *(fd for fd, _ in self.joins), *self.supplied, *more]
        if self.mounts_elsewhere >= 0:
            keep.append(self.mounts_elsewhere)
        process.close_all_but(keep + list(range(3, 3 + self.keep_fds)))

    def fail(self, stage: str, error: BaseException) -> None:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        if isinstance(error, WharfError):
            text, number = error.detail, int(error.extra.get("errno") or number)
        else:
            text = f"{error.strerror} {error.filename or ''}".strip() if isinstance(error, OSError) else repr(error)
        self.tell(b"E", wire.pack_failure(stage, number, text))

    def tell(self, kind: bytes, payload: bytes) -> None:
        """To whoever waits: the status pipe once the set-up is over and another process starts the container."""
        if self.gate is not None and self.channel.fileno() < 0:
            os.write(self.gate[1], kind + payload)
        else:
            self.channel.send(kind, payload)


class Progress:
    """The step under way, named in errors."""

    __slots__ = ("stage",)

    def __init__(self) -> None:
        self.stage = "begin"


def guarded(wires: Wires, body: Callable[[Progress], int]) -> NoReturn:
    """Run `body`, report what it raises, end the process: with the shell's number if `body` returns execve's errno."""
    progress = Progress()
    try:
        number = body(progress)
        wires.tell(b"E", wire.pack_failure("exec", number, os.strerror(number)))
        launch.exit_after(number)
    except BaseException as error:  # noqa: BLE001  # nothing may return into the parent's frames
        try:
            wires.fail(progress.stage, error)
        finally:
            os._exit(1)
    os._exit(1)


def birth_flags(plan: Plan) -> int:
    """The namespaces to be born in."""
    return plan.clone_flags & ~_AFTER_THE_MAPS if plan.new_user else plan.clone_flags


def init(plan: Plan, cgroup: Cgroup, wires: Wires, supplied: rootfs.Supplied, staged: bool) -> NoReturn:
    """The container's pid 1. `staged`: a first stage has already joined cgroups and namespaces."""
    guarded(wires, lambda progress: _init(plan, cgroup, wires, supplied, staged, progress))


def _init(plan: Plan, cgroup: Cgroup, wires: Wires, supplied: rootfs.Supplied, staged: bool, progress: Progress) -> int:
    progress.stage = "isolate"
    if staged:
        os.setsid()
    else:
        wires.close_others(cgroup.tasks_fds + supplied.descriptors())
        launch.isolate(plan.process, dumpable=wires.ordinary and plan.new_user)
        progress.stage = "cgroup"
        cgroup.join()
        progress.stage = "namespaces"
        join(wires)
    if plan.new_user:
        progress.stage = "user namespace"
        _become_root(wires, supplied)
    elif any(kind == "user" for kind, _, _ in plan.joins):
        take_root(wires)
    elif wires.ordinary:
        wires.groups_denied = idmap.groups_denied()  # root of a user namespace that our maker is in himself
    progress.stage = "namespaces"
    _own_namespaces(plan)
    if plan.net_devices:
        progress.stage = "netDevices"
        wires.channel.send(b"N")
        _await(wires, b"G")
    if "prestart" in plan.hooks or "createRuntime" in plan.hooks:
        wires.channel.send(b"H")
        _await(wires, b"G")
    progress.stage = "rootfs"
    slave = _filesystem(plan, wires, supplied, progress)
    return _launch(plan, wires, slave, progress)


def join(wires: Wires) -> None:
    for fd, flag in wires.joins:
        process.setns(fd, flag)
        os.close(fd)
        if flag == process.CLONE_NEWUSER and wires.ordinary:
            wires.groups_denied = idmap.groups_denied()  # now: a mount namespace is joined last, and may hold any /proc


def take_root(wires: Wires) -> None:
    """In a user namespace that was just entered: the host's user has no id there, or not that of its root."""
    cred.set_ids(0, 0, None if wires.groups_denied else [])
    process.prctl(process.PR_SET_DUMPABLE, 0)


def _become_root(wires: Wires, supplied: rootfs.Supplied) -> None:
    """Wait for the maps, then take id 0 of the new namespace; the parent hands over what may not be mounted from inside."""
    wires.channel.send(b"U")
    payload, fds = _await(wires, b"G")
    for word, fd in zip(payload.split(), fds, strict=True):
        if word == b"root":
            supplied.root = fd
        elif word == b"sysfs":
            supplied.sysfs = fd
        else:
            supplied.binds[int(word)] = fd
    wires.groups_denied = wires.ordinary and idmap.groups_denied()
    take_root(wires)


def _own_namespaces(plan: Plan) -> None:
    if plan.new_user and plan.clone_flags & _AFTER_THE_MAPS:
        process.unshare(plan.clone_flags & _AFTER_THE_MAPS)
    if plan.new_cgroup:
        process.unshare(process.CLONE_NEWCGROUP)  # after joining: the cgroup we are in becomes the root
    if plan.new_time:
        process.unshare(process.CLONE_NEWTIME)
        if plan.time_offsets:
            fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, plan.time_offsets.encode())
            os.close(fd)
        fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        process.setns(fd, process.CLONE_NEWTIME)
        os.close(fd)
    if plan.clone_flags & process.CLONE_NEWNET:
        loopback.up()
    if plan.hostname:
        process.sethostname(plan.hostname)
    if plan.domainname:
        process.setdomainname(plan.domainname)


def _filesystem(plan: Plan, wires: Wires, supplied: rootfs.Supplied, progress: Progress) -> int:
    """Root, console, sysctls, fences, pivot. Returns the terminal's slave or -1."""
    if wires.mounts_elsewhere >= 0:
        process.unshare(process.CLONE_NEWNS)  # to build in: nothing of the root shows in a namespace that others use
    root = rootfs.build(plan, supplied)
    slave = -1
    if plan.process.terminal:
        progress.stage = "console"
        master, slave = devfs.open_console(root)
        if wires.plain_newlines:
            tty.plain_newlines(slave)
        devfs.mount_console(root, slave)
        wires.channel.send(b"C", b"", [master])
        os.close(master)
    progress.stage = "sysctl"
    sysctls = plan.sysctls
    if plan.new_user and any(kind == "network" for kind, _, _ in plan.joins):
        sysctls = [item for item in sysctls if not rootfs.of_network(item)]  # written before we had left the host's namespace
    if sysctls:
        rootfs.write_sysctls(sysctls)
    progress.stage = "paths"
    rootfs.fence(root, plan)
    if "createContainer" in plan.hooks:
        progress.stage = "hook createContainer"
        os.fchdir(root)  # as runc: such hooks change the root filesystem, and name its parts from here
        # spec: a hook in the container's namespaces reads the number that we have there
        hooks.run(plan.hooks["createContainer"], "createContainer", _state(plan, os.getpid()), plan.annotations)
    progress.stage = "pivot"
    if wires.mounts_elsewhere >= 0:
        root = rootfs.leave(root, wires.mounts_elsewhere)
    rootfs.enter(root, plan, wires.pivot)
    return slave


def _launch(plan: Plan, wires: Wires, slave: int, progress: Progress) -> int:
    progress.stage = "process"
    if wires.keyring:
        launch.keyring()
    launch.machine(plan)
    launch.enter_directory(plan.process.cwd, create=True)
    launch.limits(plan.process)
    env = launch.with_home(plan.process)
    launch.wire_stdio(plan.process, wires.stdio, slave)
    labelled = labels.prepare(plan.process.labels)
    locked = lock.prepare(plan.lock)  # by root: the user may not see /dev
    progress.stage = "capabilities"
    keep_admin = (plan.seccomp is not None or locked >= 0) and not plan.process.no_new_privs
    launch.drop(plan.process, keep_admin, wires.groups_denied)
    if wires.look_up and plan.config.get("process") and (missing := launch.look_up(plan.process.args[0], env)):
        return missing
    progress.stage = "start"
    wires.channel.send(b"R")
    _await_start(wires)
    if locked >= 0:
        progress.stage = "landlock"
        landlock.enforce(locked)
    progress.stage = "seccomp"

    def hand_over(fd: int) -> None:
        wires.tell(b"L", b"%d" % fd)
        _await_start(wires)  # the parent has taken its copy

    def before() -> None:
        if "startContainer" in plan.hooks:
            progress.stage = "hook startContainer"
            hooks.run(plan.hooks["startContainer"], "startContainer", _state(plan, os.getpid()), plan.annotations)
        progress.stage = "labels"
        labels.apply(labelled)
        progress.stage = "exec"

    return launch.execute(plan.process, plan.seccomp, plan.seccomp_flags, env, wires.keep_fds, hand_over, keep_admin, before)


def _await(wires: Wires, expected: bytes) -> tuple[bytes, list[int]]:
    kind, payload, fds = wires.channel.receive()
    if kind != expected:
        os._exit(1)  # the parent is gone or has given up
    return payload, fds


def _await_start(wires: Wires) -> None:
    if wires.gate is None:
        _await(wires, b"S")
        return
    if wires.channel.fileno() >= 0:
        wires.channel.close()
    if not os.read(wires.gate[0], 1):
        os._exit(1)


def _state(plan: Plan, pid: int) -> dict[str, object]:
    """The OCI state that a hook in the container reads."""
    return {
        "ociVersion": spec.VERSION,
        "id": plan.id,
        "status": "created",
        "pid": pid,
        "bundle": plan.bundle,
        "annotations": plan.annotations,
    }
