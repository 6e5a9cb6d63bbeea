"""/sys/fs/cgroup as a container sees it: its own cgroup as the root of each hierarchy."""

from __future__ import annotations

import os

from agent.runtime import targets
from agent.runtime.cgroup import NO_CGROUP, Cgroup, hierarchies
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.mounts import MountStep
    from agent.runtime.plan import Plan

    Params = list[tuple[int, bytes, bytes | None, int]]


def mount(root: int, step: MountStep, plan: Plan) -> int:
    """With a cgroup namespace of its own a container gets new mounts, rooted by the kernel; without one, binds of its cgroup."""
    tree = hierarchies()
    target = targets.target_in(root, step.target, directory=True, plain=True)
    attributes = step.attr_set
    if not tree.v1:
        made = _hierarchy(plan, tree.v2 or "", b"cgroup2", [], attributes)
        _put(made, target)
        return made
    params: Params = [(api.FSCONFIG_SET_STRING, b"source", b"tmpfs", 0), (api.FSCONFIG_SET_STRING, b"mode", b"755", 0)]
    top = api.new_filesystem(b"tmpfs", params, attributes & ~api.MOUNT_ATTR_RDONLY)
    _put(top, target)  # first: before Linux 6.15 nothing can be mounted on what is not
    for point in dict.fromkeys(tree.v1.values()):
        controllers = [name for name, where in tree.v1.items() if where == point]
        made = _hierarchy(plan, point, b"cgroup", _v1_params(controllers), attributes)
        _place(top, os.path.basename(point).encode(), made)
        for name in controllers:  # cpu -> cpu,cpuacct
            if name != os.path.basename(point) and not name.startswith("name="):
                os.symlink(os.path.basename(point), name, dir_fd=top)
    if tree.v2:
        _place(top, os.path.basename(tree.v2).encode(), _hierarchy(plan, tree.v2, b"cgroup2", [], attributes))
    api.set_attributes(top, attributes & api.MOUNT_ATTR_RDONLY)
    return top


def _put(made: int, target: int) -> None:
    api.attach(made, target)
    os.close(target)


def _hierarchy(plan: Plan, point: str, fstype: bytes, params: Params, attributes: int) -> int:
    if plan.new_cgroup:
        # what /proc/mounts shows as its device, as everywhere
        return api.new_filesystem(fstype, [(api.FSCONFIG_SET_STRING, b"source", b"cgroup", 0), *params], attributes)
    path = Cgroup(plan.cgroup_path).path if plan.cgroup_path != NO_CGROUP else ""
    made = api.clone_tree(api.AT_FDCWD, (point + path).encode())
    api.set_attributes(made, attributes)
    return made


def _v1_params(controllers: list[str]) -> Params:
    params: Params = []
    for name in controllers:
        if name.startswith("name="):
            params += [(api.FSCONFIG_SET_FLAG, b"none", None, 0), (api.FSCONFIG_SET_STRING, b"name", name[5:].encode(), 0)]
        else:
            params.append((api.FSCONFIG_SET_FLAG, name.encode(), None, 0))
    return params


def _place(top: int, name: bytes, made: int) -> None:
    os.mkdir(name, 0o755, dir_fd=top)
    target = api.open_in(top, name, os.O_PATH | os.O_DIRECTORY, api.RESOLVE_BENEATH | api.RESOLVE_NO_SYMLINKS)
    api.attach(made, target)
    os.close(target)
    os.close(made)
