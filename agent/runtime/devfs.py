"""/dev of a container, and its console."""

from __future__ import annotations

import os
import stat

from agent.runtime import targets
from agent.sys import mountapi as api
from agent.sys import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.plan import Device, Plan

LINKS = (
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
)


def populate(root: int, dev: int, plan: Plan, bind_only: bool) -> None:
    """Device nodes and links. `dev`: the mount at /dev if the plan has one: with a bind it is somebody else's, and left alone."""
    foreign = any(step.target == b"dev" and step.kind == "bind" and not step.remount for step in plan.mounts)
    for device in plan.devices:
        if foreign and device.path.startswith(b"dev/"):
            continue
        directory, slash, name = device.path.rpartition(b"/")
        # the mount's own descriptor, so that the image's /dev, link or not, plays no part (CVE-2026-41579)
        own = dev >= 0 and directory == b"dev"
        parent = dev if own else targets.directory_in(root, directory)
        _node(parent, name if slash else device.path, device, bind_only)
        if not own:
            os.close(parent)
    if not foreign:
        _links(root, dev)


def _links(root: int, dev: int) -> None:
    parent = dev if dev >= 0 else targets.directory_in(root, b"dev")
    for name, target in (*LINKS, (b"ptmx", b"pts/ptmx")):
        try:
            os.symlink(target, name, dir_fd=parent)
        except FileExistsError:
            pass  # the image has one, and no tmpfs covers it
    if parent != dev:
        os.close(parent)


def _node(parent: int, name: bytes, device: Device, bind_only: bool) -> None:
    if bind_only:  # a user namespace may not make nodes: show the host's
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
        except FileExistsError:
            pass  # the image has a file to mount over
        target = api.open_in(parent, name, os.O_PATH | os.O_NOFOLLOW, api.RESOLVE_BENEATH | api.RESOLVE_NO_SYMLINKS)
        copy = _of_the_host(device)
        api.attach(copy, target)
        os.close(copy)
        os.close(target)
        return
    number = os.makedev(device.major, device.minor)
    try:
        os.mknod(name, device.mode, number, dir_fd=parent)
    except FileExistsError:
        if not _is(device, os.stat(name, dir_fd=parent, follow_symlinks=False)):
            raise OSError(17, f"/{device.path.decode()} exists and is another device") from None
    if device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)


def _of_the_host(device: Device) -> int:
    """A detached mount of the host's node of the same path, which has to be this device: a path could name anything."""
    node = os.open("/" + os.fsdecode(device.path), os.O_PATH | os.O_CLOEXEC)
    try:
        if not _is(device, os.fstat(node)):
            raise OSError(19, f"/{device.path.decode()} of this node is not the device {device.major}:{device.minor}")
        copy = api.clone_tree(node)
    finally:
        os.close(node)
    api.set_attributes(copy, api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NOEXEC)
    return copy


def _is(device: Device, found: os.stat_result) -> bool:
    same_kind = stat.S_IFMT(found.st_mode) == stat.S_IFMT(device.mode)
    return same_kind and found.st_rdev == os.makedev(device.major, device.minor)


def open_console(root: int) -> tuple[int, int]:
    """(master, slave) of a new terminal in the devpts that is mounted at /dev/pts of `root`.

    Opening a file that only looks like ptmx could do anything, so the directory is opened first and must be devpts.
    """
    pts = api.open_in(root, b"dev/pts", os.O_RDONLY | os.O_DIRECTORY, api.RESOLVE_IN_ROOT | api.RESOLVE_NO_SYMLINKS)
    try:
        if api.filesystem_magic(pts) != api.DEVPTS_SUPER_MAGIC:
            raise OSError(25, "/dev/pts is not a devpts filesystem; a terminal needs one")
        master = os.open(b"ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pts)
    finally:
        os.close(pts)
    if os.fstat(master).st_rdev != os.makedev(5, 2):
        raise OSError(25, "/dev/pts/ptmx is not a terminal multiplexer")
    tty.unlock(master)
    return master, tty.peer(master)


def mount_console(root: int, slave: int) -> None:
    """Show the terminal as /dev/console, which a /dev that came with the image may have made a link (CVE-2025-52565)."""
    target = targets.target_in(root, b"dev/console", directory=False, plain=True)
    copy = api.clone_tree(slave)
    api.attach(copy, target)
    os.close(copy)
    os.close(target)
