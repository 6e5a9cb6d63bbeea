"""The root filesystem, built inside the child's new mount namespace: the container's, or one that `leave` takes it out of.

Nothing is mounted by path: a mount is made detached, its target is opened by openat2 with the new root as "/" and without magic
links, and the one is moved onto the other. A path that another process swaps meanwhile can only miss, never lead outside.
"""

from __future__ import annotations

import errno
import os
import stat

from agent.runtime import cgroupfs, devfs
from agent.runtime.errors import InvalidConfig
from agent.runtime.privilege import privileged
from agent.runtime.targets import directory_in, target_in
from agent.sys import fuse, process
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.mounts import MountStep
    from agent.runtime.plan import Plan

FSCONFIG_STRING_LIMIT = 255
# figures that a container may be shown its own of, as lxcfs does; runc's list
_FIGURES = "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo net/dev sys/kernel/ns_last_pid sys/crypto/fips_enabled"
COVERABLE = frozenset(b"proc/" + word.encode() for word in _FIGURES.split())


class Supplied:
    """Mounts that were made outside, because the user namespace may not make them: by position in the plan; root is the first."""

    __slots__ = ("binds", "root", "sysfs")

    def __init__(self) -> None:
        self.root = -1
        self.binds: dict[int, int] = {}
        self.sysfs = -1

    def descriptors(self) -> list[int]:
        """What the child must not close."""
        return [fd for fd in (self.root, self.sysfs, *self.binds.values()) if fd >= 0]


def supply(plan: Plan, supplied: Supplied) -> None:
    """What the parent makes before the child exists.

    A root on a device, which the child's device cgroup would not let it open, or one served by a program, which must not be a
    process of the container.
    """
    root = plan.rootfs[0]
    if root.kind == "fs" and root.fstype != b"overlay" and not plan.new_user:
        supplied.root = root_filesystem(root)


def build(plan: Plan, supplied: Supplied) -> int:
    """Assemble everything up to, not including, pivot_root. Returns the descriptor of the new root."""
    if any(step.shared for step in plan.mounts):
        _make_ahead(plan, supplied)
    api.set_attributes(api.AT_FDCWD, 0, propagation=api.MS_SLAVE, recursive=True, path=b"/")
    root_mount = supplied.root if supplied.root >= 0 else root_filesystem(plan.rootfs[0], plan.root_propagation[0])
    # over the old root, in this namespace only: pivot_root wants a mount, and no host directory
    api.attach_at(root_mount, b"/")
    for step in plan.rootfs[1:]:
        _mount(root_mount, step, -1, plan)
    dev = -1
    for position, step in enumerate(plan.mounts):
        made = supplied.binds.get(position, supplied.sysfs if step.fstype == b"sysfs" else -1)
        mount = _mount(root_mount, step, made, plan)
        if step.target == b"dev" and mount >= 0:
            dev = mount
    joined = any(kind == "user" for kind, _, _ in plan.joins)
    devfs.populate(root_mount, dev, plan, bind_only=plan.new_user or joined or not privileged())
    return root_mount


def root_filesystem(step: MountStep, propagation: int = 0) -> int:
    """A detached mount of the root: an overlay of layers, a device's file system, or a copy of a directory's mount."""
    if step.kind == "bind":
        # recursive as runc has it, so that what is mounted below the directory is seen, too
        mount = api.clone_tree(api.AT_FDCWD, step.source, True)
        # a slave goes on hearing of what the host mounts below the directory
        keep = api.MS_SLAVE if propagation == api.MS_SLAVE else api.MS_PRIVATE
        api.set_attributes(mount, 0, propagation=keep, recursive=True)
    elif step.fstype == fuse.OVERLAY:
        options = [key if value is None else key + b"=" + value for _, key, value, _ in step.params if key != b"source"]
        mount = fuse.overlay(step.lowers, options, step.attr_set)
    else:
        mount = new_filesystem(step)
    _attributes(mount, step)
    return mount


def new_filesystem(step: MountStep) -> int:
    params = step.params
    if step.lowers:
        params = [(api.FSCONFIG_SET_STRING, b"lowerdir+", _short(lower), 0) for lower in step.lowers] + [
            (command, key, _short(value) if value and key in (b"upperdir", b"workdir") else value, fd)
            for command, key, value, fd in params
        ]
    later = api.MOUNT_ATTR_IDMAP | (api.MOUNT_ATTR_RDONLY if _later_readonly(step) else 0)
    attributes = step.attr_set & ~later
    try:
        return api.new_filesystem(step.fstype, params, attributes)
    except OSError as error:
        if not step.lowers or error.errno != 22:  # EINVAL: before 6.5 only at the very end, and without naming lowerdir+
            raise
    from agent.runtime import stacked  # only where the kernel is older than 6.7

    return stacked.overlay(step, attributes)


def _later_readonly(step: MountStep) -> bool:
    """A read-only /dev has to be filled first, the console included."""
    return step.target == b"dev" and step.kind == "fs" and bool(step.attr_set & api.MOUNT_ATTR_RDONLY)


def _short(path: bytes) -> bytes:
    """fsconfig takes strings of 255 bytes; a longer path is named by a descriptor, left open until exec."""
    if len(path) <= FSCONFIG_STRING_LIMIT:
        return path
    return b"/proc/self/fd/%d" % os.open(path, os.O_PATH | os.O_CLOEXEC)


def _make_ahead(plan: Plan, supplied: Supplied) -> None:
    """Copies that stay peers of the host's mounts have to be taken before "/" becomes a slave; and then all others, too, since
    the kernel lists mounts in the order in which they were made, and the spec wants the listed one."""
    for position, step in enumerate(plan.mounts):
        given = position in supplied.binds or (step.fstype == b"sysfs" and supplied.sysfs >= 0)
        if step.kind in ("bind", "fs") and not (given or step.remount or step.copy_link):
            supplied.binds[position] = make(step)


def make(step: MountStep) -> int:
    return bind(step) if step.kind == "bind" else new_filesystem(step)


def bind(step: MountStep) -> int:
    return api.clone_tree(api.AT_FDCWD, step.source, step.recursive, follow=not step.keep_source_link)


def _mount(root: int, step: MountStep, made: int, plan: Plan) -> int:
    """Make one mount (unless `made` is one already) and put it in place. Returns its descriptor, -1 if nothing was mounted."""
    if step.remount:
        _remount(root, step, plan)
        return -1
    if step.copy_link and _copy_link(root, step):
        return -1
    if step.kind == "cgroup":
        return cgroupfs.mount(root, step, plan)
    if made < 0 and step.fstype == b"tmpfs":
        _inherit_mode(root, step)
    mount = made if made >= 0 else make(step)
    directory = step.kind != "bind" or stat.S_ISDIR(os.fstat(mount).st_mode)
    # proc and sysfs behind a link would leave what programs trust as /proc to the image (CVE-2019-19921)
    plain = step.fstype in (b"proc", b"sysfs")
    target = target_in(root, step.target, directory, plain, follow=not step.keep_target_link)
    _spare_proc(step, mount, target)
    if step.copy_up:
        _copy_up(target, mount)
    _attributes(mount, step)
    api.attach(mount, target)
    _propagate(mount, step, plan)
    os.close(target)
    return mount


def _propagate(mount: int, step: MountStep, plan: Plan) -> None:
    for flag, recursive in step.propagation:
        if flag == api.MS_UNBINDABLE and not plan.new_mount:
            flag = api.MS_PRIVATE  # `leave` would not take it along, and where it leads to, nothing can be bound
        api.set_attributes(mount, 0, propagation=flag, recursive=recursive)


def _remount(root: int, step: MountStep, plan: Plan) -> None:
    """Change what an earlier mount, or the root, has at the target (mount(8), "remount"): with bind its flags alone."""
    target = api.open_in(root, step.target, os.O_PATH)
    try:
        if step.kind != "bind":
            word = b"ro" if step.attr_set & api.MOUNT_ATTR_RDONLY else b"rw" if step.attr_clr & api.MOUNT_ATTR_RDONLY else b""
            flags: list[tuple[int, bytes, bytes | None, int]] = [(api.FSCONFIG_SET_FLAG, word, None, 0)] if word else []
            if flags or step.params:
                api.reconfigure(target, flags + step.params)
        if step.attr_set or step.attr_clr:
            api.set_attributes(target, step.attr_set, step.attr_clr)
        if step.rec_set or step.rec_clr:
            api.set_attributes(target, step.rec_set, step.rec_clr, recursive=True)
        _propagate(target, step, plan)
    finally:
        os.close(target)


def _copy_link(root: int, step: MountStep) -> bool:
    """copy-symlink: make a source that is a symbolic link again. False when it is none: then it is mounted as ever."""
    try:
        link = os.readlink(step.source)
    except OSError as error:
        if error.errno == 22:  # EINVAL: no link
            return False
        raise
    head, _, name = step.target.rpartition(b"/")
    parent = directory_in(root, head)
    try:
        os.symlink(link, name, dir_fd=parent)
    except FileExistsError:
        if _link_at(parent, name) != link:
            raise InvalidConfig(f"/{step.target.decode()} exists and is not the link to {os.fsdecode(link)}") from None
    finally:
        os.close(parent)
    return True


def _link_at(parent: int, name: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return b""


def _inherit_mode(root: int, step: MountStep) -> None:
    """A tmpfs without a mode has that of the directory it covers, as under runc: a /tmp stays one."""
    if any(key == b"mode" for _, key, _, _ in step.params):
        return
    covered = _existing(root, step.target)
    if covered >= 0:
        mode = b"%o" % stat.S_IMODE(os.fstat(covered).st_mode)
        os.close(covered)
        step.params.append((api.FSCONFIG_SET_STRING, b"mode", mode, 0))


def _spare_proc(step: MountStep, mount: int, target: int) -> None:
    """Nothing but a procfs may stand where programs, and security modules, look for /proc (CVE-2019-16884, CVE-2023-28642)."""
    if step.target != b"proc" and api.filesystem_magic(target) != api.PROC_SUPER_MAGIC:
        return
    if step.target not in COVERABLE and api.filesystem_magic(mount) != api.PROC_SUPER_MAGIC:
        raise InvalidConfig(f"/{step.target.decode()} is in procfs, which only another procfs may cover; mount it elsewhere")


def _attributes(mount: int, step: MountStep) -> None:
    if step.kind == "bind" and (step.attr_set or step.attr_clr):
        api.set_attributes(mount, step.attr_set, step.attr_clr)
    if step.rec_set or step.rec_clr:
        api.set_attributes(mount, step.rec_set, step.rec_clr, recursive=True)


def _copy_up(target: int, mount: int) -> None:
    """tmpcopyup: the new tmpfs begins with what the directory below it holds."""
    import shutil

    source = f"/proc/self/fd/{os.dup(target)}"
    shutil.copytree(source, f"/proc/self/fd/{mount}", symlinks=True, dirs_exist_ok=True)


def fence(root: int, plan: Plan) -> None:
    """Read-only and masked paths, after every mount is in place; paths that do not exist need no fence."""
    for step in plan.mounts:
        if _later_readonly(step):
            target = _existing(root, step.target)
            api.set_attributes(target, api.MOUNT_ATTR_RDONLY)
            os.close(target)
    for path in plan.readonly:
        target = _existing(root, path)
        if target >= 0:
            copy = api.clone_tree(target, recursive=True)
            api.set_attributes(copy, api.MOUNT_ATTR_RDONLY)  # other flags stay as they are, locked ones too
            api.attach(copy, target)
            os.close(copy)
            os.close(target)
    if plan.masked:
        _mask(root, plan.masked)


def _mask(root: int, paths: list[bytes]) -> None:
    # the host's /dev/null, not the container's, which the image or a volume may have replaced (CVE-2025-31133)
    null = os.open(b"/dev/null", os.O_PATH | os.O_CLOEXEC)
    what = os.fstat(null)
    if not stat.S_ISCHR(what.st_mode) or what.st_rdev != os.makedev(1, 3):
        raise OSError(19, "the host's /dev/null is not the null device")
    nothing = api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NOEXEC
    params: list[tuple[int, bytes, bytes | None, int]]
    covers: dict[bool, int] = {}  # one null and one empty tmpfs, of which all others are copies: whether of a directory
    for path in paths:
        target = _existing(root, path)
        if target < 0:
            continue
        directory = stat.S_ISDIR(os.fstat(target).st_mode)
        if directory in covers:
            cover = api.clone_tree(covers[directory])
        elif directory:
            words = {b"source": b"tmpfs", b"nr_inodes": b"2", b"mode": b"755"}
            params = [(api.FSCONFIG_SET_STRING, key, value, 0) for key, value in words.items()]
            params.append((api.FSCONFIG_SET_FLAG, b"ro", None, 0))
            cover = covers[True] = api.new_filesystem(b"tmpfs", params, nothing | api.MOUNT_ATTR_NODEV)
        else:
            cover = covers[False] = api.clone_tree(null)
            api.set_attributes(cover, nothing)
        api.attach(cover, target)
        if cover != covers[directory]:
            os.close(cover)
        os.close(target)
    os.close(null)


def _existing(root: int, path: bytes) -> int:
    return api.open_existing(root, path, os.O_PATH)


def of_network(sysctl: tuple[bytes, bytes]) -> bool:
    """Whether it is the network namespace's: its owner alone may write it."""
    return sysctl[0].startswith(b"net/")


def write_sysctls(sysctls: list[tuple[bytes, bytes]]) -> None:
    """Through a procfs of our own that nobody else can reach or cover (CVE-2025-52881)."""
    proc = api.new_filesystem(b"proc", [], 0)
    try:
        for path, value in sysctls:
            file = os.open(b"sys/" + path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(file, value)
            except OSError as error:
                raise OSError(error.errno, f"sysctl {path.decode()}={value.decode()}: {error.strerror}") from error
            finally:
                os.close(file)
    finally:
        os.close(proc)


def leave(root: int, namespace: int) -> int:
    """Take the root out of the mount namespace that it was built in, which ends with that, and into `namespace`, whose mounts
    stay as they are. Returns the new root: a tree that is mounted nowhere, and lives while a process has it for its root."""
    tree = api.clone_tree(root, recursive=True)
    process.setns(namespace, process.CLONE_NEWNS)
    os.close(namespace)
    os.close(root)
    return tree


def enter(root: int, plan: Plan, pivot: bool = True) -> None:
    """Make the new root "/", drop the old one, apply the root's own flags."""
    os.fchdir(root)
    if pivot and plan.new_mount:
        api.pivot_root(b".", b".")  # the old root is now stacked on the new one
        api.unmount(b".")
    else:
        if plan.new_mount:
            _bury_procfs()
        os.chroot(b".")  # in somebody else's mount namespace the old root stays theirs
    os.chdir(b"/")
    flag, recursive = plan.root_propagation
    if flag:
        api.set_attributes(api.AT_FDCWD, 0, propagation=flag, recursive=recursive, path=b"/")
    if plan.readonly_root:
        api.set_attributes(api.AT_FDCWD, api.MOUNT_ATTR_RDONLY, path=b"/")


def _bury_procfs() -> None:
    """Without pivot_root the old root stays below, and with its proc and sysfs in sight the kernel would let a user namespace in
    the container mount unmasked ones of its own. Before chroot, when paths still lead to the old root."""
    with open("/proc/self/mountinfo", "rb") as lines:
        entries = [line.partition(b" - ") for line in lines]
    points = [before.split()[4] for before, _, after in entries if after.split()[0] in (b"proc", b"sysfs")]
    for point in reversed(points):  # children first
        path = point.replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n").replace(b"\\134", b"\\")
        try:
            api.unmount(path)
        except FileNotFoundError:
            pass  # of the new root, which has such a path where the old one has none
        except OSError as error:
            if error.errno == errno.EPERM:  # locked by a user namespace: covered instead
                api.attach_at(api.new_filesystem(b"tmpfs", [], api.MOUNT_ATTR_RDONLY), path)
            elif error.errno != errno.EINVAL:  # gone with its parent, or of the new root
                raise
