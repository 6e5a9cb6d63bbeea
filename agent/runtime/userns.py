"""User namespaces, the parent's part: id maps, and mounts that only the host may make.

The child may not open a volume in a directory closed to others, nor mount sysfs of the host's network, nor shift ids. So every
bind source and the root filesystem are copied or mounted here, detached, and handed over as descriptors.
"""

from __future__ import annotations

import errno
import os

from agent.runtime import idmap, rootfs
from agent.runtime.errors import InvalidConfig, RuntimeFailed
from agent.sys import cred, process
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.channel import Channel
    from agent.runtime.mounts import MountStep
    from agent.runtime.plan import Plan


def mapped(uid_map: str, gid_map: str) -> int:
    """A user namespace with these maps and nobody in it: what a mount with mappings of its own is shifted by."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone3(process.CLONE_NEWUSER)
    if pid == 0:
        os.close(tell)
        os.read(told, 1)  # until the namespace has been opened, or our parent is gone
        os._exit(0)
    try:
        idmap.write(pid, uid_map, gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.close(tell)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def prepare(plan: Plan, supplied: rootfs.Supplied) -> None:
    """Mounts with mappings of their own, for a container without a user namespace: the maps have to be written by our numbers,
    which a process in a new pid namespace does not know."""
    for position, step in enumerate(plan.mounts):
        if step.uid_map:
            supplied.binds[position] = _own_maps(step)


def _own_maps(step: MountStep) -> int:
    owner = mapped(step.uid_map, step.gid_map)
    try:
        return _shifted(rootfs.make(step), step, owner)
    finally:
        os.close(owner)


def _shifted(mount: int, step: MountStep, owner: int) -> int:
    try:
        _shift(mount, step.source or step.fstype, owner, step.idmap_all)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _shift(mount: int, what: bytes, owner: int, recursive: bool = False) -> None:
    try:
        api.set_attributes(mount, api.MOUNT_ATTR_IDMAP, userns_fd=owner, recursive=recursive)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise InvalidConfig(
            f"{os.fsdecode(what)} lies on a file system that this kernel cannot show with shifted ids; move it to ext4, xfs or"
            " btrfs, or leave the user namespace (idmap) out"
        ) from error


def serve(plan: Plan, pid: int, channel: Channel) -> None:
    """Answer a child that waits in its new user namespace. Raises RuntimeFailed for what the kernel refuses."""
    try:
        _serve(plan, pid, channel)
    except OSError as error:
        what = f"{error.strerror} {error.filename or ''}".strip()
        raise RuntimeFailed(
            f"container {plan.id} failed at user namespace: {what}", stage="user namespace", errno=error.errno or 0
        ) from error


def _serve(plan: Plan, pid: int, channel: Channel) -> None:
    if os.geteuid():
        _refuse_shifts(plan)
        idmap.write(pid, plan.uid_map, plan.gid_map)
        channel.send(b"G")  # what there is to mount, the child can reach as well as we can, and only it may mount
        return
    idmap.write(pid, plan.uid_map, plan.gid_map)
    made: list[tuple[bytes, int]] = []
    owner = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        made.append((b"root", _root(plan, owner)))
        for position, step in enumerate(plan.mounts):
            if step.uid_map:
                made.append((b"%d" % position, _own_maps(step)))
            elif step.kind == "bind" and not (step.remount or step.copy_link):
                made.append((b"%d" % position, _bind(step, owner)))
        joined = any(kind == "network" for kind, _, _ in plan.joins)
        if not joined and not plan.clone_flags & process.CLONE_NEWNET:
            made.append((b"sysfs", api.new_filesystem(b"sysfs", [], api.MOUNT_ATTR_RDONLY)))
        channel.send(b"G", b" ".join(word for word, _ in made), [fd for _, fd in made])
    finally:
        os.close(owner)
        for _, fd in made:
            os.close(fd)


def _refuse_shifts(plan: Plan) -> None:
    for step in (*plan.rootfs, *plan.mounts):
        if step.idmap:
            raise InvalidConfig(f"mount of '/{step.target.decode()}' with shifted ids is for root alone; leave idmap out")


def _bind(step: MountStep, owner: int) -> int:
    mount = rootfs.bind(step)
    return _shifted(mount, step, owner) if step.idmap else mount


def _root(plan: Plan, owner: int) -> int:
    step = plan.rootfs[0]
    if not step.idmap:
        return rootfs.root_filesystem(step)
    if step.kind == "bind":
        mount = api.clone_tree(api.AT_FDCWD, step.source)
        api.set_attributes(mount, step.attr_set, propagation=api.MS_PRIVATE)
        return _shifted(mount, step, owner)
    if step.fstype != b"overlay":
        return _shifted(rootfs.root_filesystem(step), step, owner)
    # overlay works in its upper layer as whoever mounted it, and the host's root has no id in a shifted layer
    cred.set_filesystem_ids(_root_id(plan.uid_map), _root_id(plan.gid_map))
    try:
        return _shifted_overlay(step, owner)
    finally:
        cred.set_filesystem_ids(0, 0)


def _root_id(id_map: str) -> int:
    """The host's id of the container's 0."""
    for line in id_map.splitlines():
        inside, outside, _ = line.split()
        if inside == "0":
            return int(outside)
    raise InvalidConfig("uidMappings and gidMappings must map the container's id 0, for its layers to be shifted")


def _shifted_overlay(step: MountStep, owner: int) -> int:
    """An overlay cannot be shifted as a whole (EINVAL): shift each layer, then stack them."""
    from agent.runtime import stacked

    places = stacked.writable(step)
    try:
        return _by_descriptor(step, places, owner)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # before Linux 6.13, and before 6.5
            raise
    return stacked.overlay(step, step.attr_set, owner)


def _by_descriptor(step: MountStep, places: dict[bytes, bytes], owner: int) -> int:
    open_fds: list[int] = []

    def shifted(path: bytes) -> int:
        fd = api.clone_tree(api.AT_FDCWD, path)
        open_fds.append(fd)
        _shift(fd, path, owner)
        return fd

    def below(directory: int, name: bytes) -> int:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        open_fds.append(fd)
        return fd

    try:
        params: list[tuple[int, bytes, bytes | None, int]] = [
            (api.FSCONFIG_SET_FD, b"lowerdir+", None, shifted(lower)) for lower in step.lowers
        ]
        if places:
            parent = shifted(os.path.dirname(next(iter(places.values()))))
            for key, path in places.items():
                params.append((api.FSCONFIG_SET_FD, key, None, below(parent, os.path.basename(path))))
        params += [param for param in step.params if param[1] not in places]
        return api.new_filesystem(b"overlay", params, step.attr_set)
    finally:
        for fd in open_fds:
            os.close(fd)
