"""The root filesystem, built inside the child's new mount namespace.

Nothing is mounted by path: a mount is made detached, its target is opened by openat2 with the new root as "/" and without magic
links, and the one is moved onto the other. A path that another process swaps meanwhile can only miss, never lead outside.
"""

from __future__ import annotations

import os
import stat

from agent.runtime import cgroupfs, devfs
from agent.runtime.errors import InvalidConfig
from agent.sys import fuse
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.mounts import MountStep
    from agent.runtime.plan import Plan

FSCONFIG_STRING_LIMIT = 255
ROOT = api.RESOLVE_IN_ROOT | api.RESOLVE_NO_MAGICLINKS


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


def supply(plan: Plan) -> Supplied:
    """What the parent makes before the child exists.

    A root on a device, which the child's device cgroup would not let it open, or one served by a program, which must not be a
    process of the container.
    """
    supplied = Supplied()
    root = plan.rootfs[0]
    if root.kind == "fs" and root.fstype != b"overlay" and not plan.new_user:
        supplied.root = root_filesystem(root)
    return supplied


def build(plan: Plan, supplied: Supplied) -> int:
    """Assemble everything up to, not including, pivot_root. Returns the descriptor of the new root."""
    prepare_shared(plan, supplied)
    api.set_attributes(api.AT_FDCWD, 0, propagation=api.MS_SLAVE, recursive=True, path=b"/")
    root_mount = supplied.root if supplied.root >= 0 else root_filesystem(plan.rootfs[0])
    api.attach_at(root_mount, b"/")  # over the old root, in this namespace only: pivot_root wants a mount, and no host directory
    for step in plan.rootfs[1:]:
        _mount(root_mount, step, -1, plan)
    dev = -1
    for position, step in enumerate(plan.mounts):
        made = supplied.sysfs if step.fstype == b"sysfs" else supplied.binds.get(position, -1)
        mount = _mount(root_mount, step, made, plan)
        if step.target == b"dev":
            dev = mount
    devfs.populate(root_mount, dev, plan, bind_only=plan.new_user)
    return root_mount


def root_filesystem(step: MountStep) -> int:
    """A detached mount of the root: an overlay of layers, a device's file system, or a copy of a directory's mount."""
    if step.kind == "bind":
        # recursive as runc has it, so that what is mounted below the directory is seen, too
        mount = api.clone_tree(api.AT_FDCWD, step.source, True)
        api.set_attributes(mount, 0, propagation=api.MS_PRIVATE, recursive=True)
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
    return api.new_filesystem(step.fstype, params, step.attr_set & ~api.MOUNT_ATTR_IDMAP)


def _short(path: bytes) -> bytes:
    """fsconfig takes strings of 255 bytes; a longer path is named by a descriptor, left open until exec."""
    if len(path) <= FSCONFIG_STRING_LIMIT:
        return path
    return b"/proc/self/fd/%d" % os.open(path, os.O_PATH | os.O_CLOEXEC)


def prepare_shared(plan: Plan, supplied: Supplied) -> None:
    """Copies that stay peers of the host's mount have to be taken before "/" becomes a slave."""
    for position, step in enumerate(plan.mounts):
        if step.kind == "bind" and step.shared and position not in supplied.binds:
            supplied.binds[position] = bind(step)


def bind(step: MountStep) -> int:
    return api.clone_tree(api.AT_FDCWD, step.source, step.recursive)


def _mount(root: int, step: MountStep, made: int, plan: Plan) -> int:
    """Make one mount (unless `made` is one already) and put it in place. Returns its descriptor."""
    if step.kind == "cgroup":
        return cgroupfs.mount(root, step, plan)
    mount = made if made >= 0 else bind(step) if step.kind == "bind" else new_filesystem(step)
    directory = step.kind != "bind" or stat.S_ISDIR(os.fstat(mount).st_mode)
    # proc and sysfs behind a link would leave what programs trust as /proc to the image (CVE-2019-19921)
    plain = step.fstype in (b"proc", b"sysfs")
    target = target_in(root, step.target, directory, plain)
    if step.copy_up:
        _copy_up(target, mount)
    _attributes(mount, step)
    api.attach(mount, target)
    os.close(target)
    for flag, recursive in step.propagation:
        api.set_attributes(mount, 0, propagation=flag, recursive=recursive)
    return mount


def _attributes(mount: int, step: MountStep) -> None:
    if step.kind == "bind" and (step.attr_set or step.attr_clr):
        api.set_attributes(mount, step.attr_set, step.attr_clr)
    if step.rec_set or step.rec_clr:
        api.set_attributes(mount, step.rec_set, step.rec_clr, recursive=True)


def target_in(root: int, path: bytes, directory: bool, plain: bool = False) -> int:
    """O_PATH descriptor of a mount target in the new root, made when absent. `plain`: no symbolic link on the way."""
    resolve = ROOT | (api.RESOLVE_NO_SYMLINKS if plain else 0)
    try:
        return api.open_in(root, path, os.O_PATH | (os.O_DIRECTORY if directory else 0), resolve)
    except FileNotFoundError:
        pass
    except OSError as error:
        if plain and error.errno in (20, 40):  # ENOTDIR, ELOOP
            raise InvalidConfig(
                f"/{path.decode()} in the root filesystem is not an ordinary directory; repair the image"
            ) from error
        raise
    head, _, name = path.rpartition(b"/")
    parent = directory_in(root, head)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
    finally:
        os.close(parent)
    return api.open_in(root, path, os.O_PATH | (os.O_DIRECTORY if directory else 0), resolve)


def directory_in(root: int, path: bytes) -> int:
    """O_PATH descriptor of a directory in the new root; missing parts are made, links stay inside."""
    try:
        return api.open_in(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parts = path.split(b"/")
    current = api.open_in(root, b".", os.O_PATH | os.O_DIRECTORY)
    for count in range(1, len(parts) + 1):
        here = b"/".join(parts[:count])
        try:
            following = api.open_in(root, here, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            os.mkdir(parts[count - 1], 0o755, dir_fd=current)
            following = api.open_in(root, here, os.O_PATH | os.O_DIRECTORY)
        os.close(current)
        current = following
    return current


def _copy_up(target: int, mount: int) -> None:
    """tmpcopyup: the new tmpfs begins with what the directory below it holds."""
    import shutil

    source = f"/proc/self/fd/{os.dup(target)}"
    shutil.copytree(source, f"/proc/self/fd/{mount}", symlinks=True, dirs_exist_ok=True)


def fence(root: int, plan: Plan) -> None:
    """Read-only and masked paths, after every mount is in place; paths that do not exist need no fence."""
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
    empty = -1
    for path in paths:
        target = _existing(root, path)
        if target < 0:
            continue
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            cover = api.clone_tree(null)
        elif empty < 0:  # one empty tmpfs for all directories
            attributes = api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NODEV | api.MOUNT_ATTR_NOEXEC
            params: list[tuple[int, bytes, bytes | None, int]] = [(api.FSCONFIG_SET_STRING, b"nr_inodes", b"2", 0)]
            params += [(api.FSCONFIG_SET_STRING, b"mode", b"755", 0), (api.FSCONFIG_SET_FLAG, b"ro", None, 0)]
            cover = empty = api.new_filesystem(b"tmpfs", params, attributes)
        else:
            cover = api.clone_tree(empty)
        api.attach(cover, target)
        if cover != empty:
            os.close(cover)
        os.close(target)
    os.close(null)


def _existing(root: int, path: bytes) -> int:
    try:
        return api.open_in(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in (2, 20):  # ENOENT, ENOTDIR
            return -1
        raise


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


def enter(root: int, plan: Plan, pivot: bool = True) -> None:
    """Make the new root "/", drop the old one, apply the root's own flags."""
    os.fchdir(root)
    if pivot:
        api.pivot_root(b".", b".")  # the old root is now stacked on the new one
        api.unmount(b".")
    else:
        os.chroot(b".")
    os.chdir(b"/")
    flag, recursive = plan.root_propagation
    if flag:
        api.set_attributes(api.AT_FDCWD, 0, propagation=flag, recursive=recursive, path=b"/")
    if plan.readonly_root:
        api.set_attributes(api.AT_FDCWD, api.MOUNT_ATTR_RDONLY, path=b"/")
