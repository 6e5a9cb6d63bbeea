"""A container to criu's images and back: what of it comes from outside, and how criu is to find that again."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable

from agent.runtime import hooks
from agent.runtime.cgroup import Cgroup, hierarchies
from agent.runtime.conversation import state_of
from agent.runtime.criu import rpc
from agent.runtime.criu.options import Choices, pair
from agent.runtime.criu.protobuf import Fields, Value, parse
from agent.runtime.errors import InvalidConfig, RuntimeFailed
from agent.runtime.mounts import MountStep
from agent.runtime.plan import Plan
from agent.sys import mountapi as api

Options = list[tuple[str, Value]]
DESCRIPTORS = "descriptors.json"  # runc's name: where 0, 1 and 2 led to


def dump(plan: Plan, pid: int, choices: Choices) -> None:
    """Write the images of the container whose first process is `pid`; it ends, unless told otherwise."""
    rpc.check(choices.binary)
    os.makedirs(choices.image_path, mode=0o700, exist_ok=True)
    images, work = _directory(choices.image_path), _directory(choices.work_path)
    try:
        options = choices.common(images, work, "dump.log")
        options += [("pid", pid), ("root", _root(plan)), ("leave_running", choices.leave_running)]
        options += [("tcp_skip_in_flight", choices.tcp_skip_in_flight), ("track_mem", choices.pre_dump)]
        options += [("parent_img", choices.parent_path or None)]
        if choices.page_server:
            address, port = choices.page_server
            options.append(("page_server", pair(address, port)))
        freezer = Cgroup(plan.cgroup_path).freezer()
        options.append(("freeze_cgroup", freezer.v1 or freezer.unified))
        options += [("ext_mnt", pair(inside, name)) for inside, name, _ in external_mounts(plan, pid)]
        options += _joined_namespaces(plan)
        if not choices.pre_dump:
            _keep_descriptors(pid, choices.image_path)
        criu = rpc.Criu(choices.binary, pass_fds=_passed(images, work, choices))
        try:
            _told(criu, rpc.PRE_DUMP if choices.pre_dump else rpc.DUMP, options, None, choices, "dump.log")
        finally:
            criu.close()
    finally:
        os.close(images)
        os.close(work)


def restore(plan: Plan, cgroup: Cgroup, choices: Choices, directory: str, console: Callable[[int], None]) -> int:
    """Bring the container back into `cgroup`, which exists; its first process is then our child. Returns its pid.
    `directory`: a place for a mount point, empty. `console` is given the terminal's master."""
    rpc.check(choices.binary)
    images, work = _directory(choices.image_path), _directory(choices.work_path)
    root = os.path.join(directory, "criu-root")
    os.mkdir(root, 0o755)

    def inside() -> None:
        if cgroup.unified_fd >= 0:
            _enter(f"/proc/self/fd/{cgroup.unified_fd}/cgroup.procs")
        cgroup.join()

    # criu restores into a mount point. It opens our descriptors of its directories, so it has to live in our mount namespace
    mount = api.clone_tree(api.AT_FDCWD, _root(plan).encode(), recursive=True)
    api.attach_at(mount, root.encode())
    os.close(mount)
    try:
        cgroup.open()
        options = choices.common(images, work, "restore.log")
        options += [("root", root), ("rst_sibling", True)]
        options += [("ext_mnt", pair(name, outside)) for _, name, outside in external_mounts(plan, 0)]
        options += [("cg_root", pair(controller, path)) for controller, path in _cgroup_roots(cgroup)]
        options += _inherited(choices.image_path)
        passed = _passed(images, work, choices, *cgroup.tasks_fds, *([cgroup.unified_fd] if cgroup.unified_fd >= 0 else []))
        criu = rpc.Criu(choices.binary, inside, passed)
        try:
            answer = _told(criu, rpc.RESTORE, options, _Listener(plan, console), choices, "restore.log")
        finally:
            criu.close()
        return int(parse(bytes(answer[4][0]))[1][0])
    finally:
        api.unmount(root.encode())
        os.rmdir(root)
        cgroup.close()
        os.close(images)
        os.close(work)


class _Listener:
    def __init__(self, plan: Plan, console: Callable[[int], None]) -> None:
        self._plan, self._console = plan, console

    def __call__(self, script: str, pid: int, fds: list[int]) -> None:
        if script == "setup-namespaces":
            for point in ("prestart", "createRuntime"):
                hooks.run(self._plan.hooks.get(point, []), point, state_of(self._plan, "created", pid))
        elif script == "orphan-pts-master" and fds:
            self._console(fds[0])


def _told(criu: rpc.Criu, kind: int, options: Options, listener: rpc.Listener | None, choices: Choices, log: str) -> Fields:
    try:
        return criu.ask(kind, options, listener)
    except RuntimeFailed as error:
        path = os.path.join(choices.work_path, log)
        raise RuntimeFailed(f"{error.detail}\nlog file: {path}", stage="criu", errno=int(error.extra["errno"])) from error


def external_mounts(plan: Plan, pid: int) -> list[tuple[str, str, str]]:
    """(path in the container, a name of ours for it, path on the host) of what the host lends to the container."""
    found = []
    for step in plan.mounts:
        if step.kind == "bind":
            inside = "/" + step.target.decode()
            found.append((inside, inside, step.source.decode()))
    found += [(f"/{path.decode()}", "/dev/null", "/dev/null") for path in plan.masked if _is_masked_file(plan, path, pid)]
    return found


def _is_masked_file(plan: Plan, path: bytes, pid: int) -> bool:
    """Directories are masked by a file system of the container's own. At a restore (no pid) all are named, which does no harm."""
    if not pid:
        return True
    try:
        return stat.S_ISCHR(os.stat(f"/proc/{pid}/root/{path.decode()}").st_mode)
    except OSError:
        return False


def _joined_namespaces(plan: Plan) -> Options:
    """criu leaves a namespace that it is told of as it is."""
    return [
        ("external", f"{kind[:3]}[{os.stat(path).st_ino}]:{kind}") for kind, _, path in plan.joins if kind in ("network", "pid")
    ]


def _keep_descriptors(pid: int, images: str) -> None:
    links = []
    for number in range(3):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            links.append("")
    with open(os.path.join(images, DESCRIPTORS), "w", encoding="utf-8") as file:
        json.dump(links, file)


def _inherited(images: str) -> Options:
    """Our own 0, 1 and 2 in place of the pipes that the container had there."""
    try:
        with open(os.path.join(images, DESCRIPTORS), encoding="utf-8") as file:
            links = json.load(file)
    except (FileNotFoundError, ValueError) as error:
        raise InvalidConfig(f"{images} holds no checkpoint of a container: {DESCRIPTORS}: {error}") from error
    return [("inherit_fd", pair(link, number)) for number, link in enumerate(links) if "pipe:" in link]


def _cgroup_roots(cgroup: Cgroup) -> list[tuple[str, str]]:
    """criu's names of controllers: as in /proc/<pid>/cgroup, where v2 has none."""
    roots = [(name, cgroup.path) for name in hierarchies().v1]
    return [*roots, ("", cgroup.path)] if cgroup.unified else roots


def _enter(procs: str) -> None:
    fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"0")
    os.close(fd)


def _root(plan: Plan) -> str:
    step: MountStep = plan.rootfs[0]
    if step.kind != "bind":
        raise InvalidConfig("checkpoint and restore need a root filesystem that is a directory of the host: give root.path")
    return os.path.realpath(step.source.decode())


def _directory(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be opened as a directory of images: {error.strerror}") from error
    return fd


def _passed(images: int, work: int, choices: Choices, *more: int) -> tuple[int, ...]:
    return (images, work, *((choices.status_fd,) if choices.status_fd else ()), *more)
