"""Mounts by file descriptor: fsopen, fsconfig, fsmount, open_tree, move_mount, mount_setattr, openat2, pivot_root, umount2.

A mount made here is detached until `attach` puts it on a descriptor, so no path is walked twice and nothing can be swapped
between check and use. Sources: open_tree(2), move_mount(2), mount_setattr(2), openat2(2), include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import os

from agent.sys import libc, nr

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MNT_DETACH = 2

PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


_fsopen = libc.syscall(nr.FSOPEN, libc.STR, libc.UINT)
_fsconfig = libc.syscall(nr.FSCONFIG, libc.INT, libc.UINT, libc.STR, libc.STR, libc.INT)
_fsmount = libc.syscall(nr.FSMOUNT, libc.INT, libc.UINT, libc.UINT)
_fspick = libc.syscall(nr.FSPICK, libc.INT, libc.STR, libc.UINT)
_open_tree = libc.syscall(nr.OPEN_TREE, libc.INT, libc.STR, libc.UINT)
_move_mount = libc.syscall(nr.MOVE_MOUNT, libc.INT, libc.STR, libc.INT, libc.STR, libc.UINT)
_mount_setattr = libc.syscall(nr.MOUNT_SETATTR, libc.INT, libc.STR, libc.UINT, libc.PTR, libc.SIZE)
_openat2 = libc.syscall(nr.OPENAT2, libc.INT, libc.STR, libc.PTR, libc.SIZE)
_pivot_root = libc.syscall(nr.PIVOT_ROOT, libc.STR, libc.STR)
_mount = libc.function("mount", libc.STR, libc.STR, libc.STR, libc.ULONG, libc.STR)
_umount2 = libc.function("umount2", libc.STR, libc.INT)
_fstatfs = libc.function("fstatfs", libc.INT, libc.PTR)


def new_filesystem(fstype: bytes, params: list[tuple[int, bytes, bytes | None, int]], attributes: int) -> int:
    """A detached mount of a new filesystem instance. `params` are fsconfig steps (command, key, value, fd)."""
    context = libc.check(_fsopen(fstype, 1), "fsopen", fstype)
    try:
        _configure(context, params)
        if _fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            raise _explained(context, "mount " + os.fsdecode(fstype))
        return libc.check(_fsmount(context, 1, attributes), "fsmount", fstype)
    finally:
        os.close(context)


def reconfigure(mount: int, params: list[tuple[int, bytes, bytes | None, int]]) -> None:
    """Change a mounted filesystem by a descriptor of its root: what `mount -o remount` does to the superblock."""
    context = libc.check(_fspick(mount, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH), "fspick")
    try:
        _configure(context, params)
        if _fsconfig(context, FSCONFIG_CMD_RECONFIGURE, None, None, 0) < 0:
            raise _explained(context, "remount")
    finally:
        os.close(context)


def _configure(context: int, params: list[tuple[int, bytes, bytes | None, int]]) -> None:
    for command, key, value, fd in params:
        if _fsconfig(context, command, key, value, fd) < 0:
            raise _explained(context, "fsconfig " + os.fsdecode(key) + ("=" + os.fsdecode(value) if value else ""))


def _explained(context: int, what: str) -> OSError:
    """The error of the last call with the filesystem's own message, which the kernel queues on the context."""
    error = libc.oserror(what)
    try:
        message = os.read(context, 512).decode(errors="replace").strip()
    except OSError:
        return error
    return OSError(error.errno, f"{what}: {message[2:]}")


def mount_with_options(source: bytes, target: bytes, fstype: bytes, options: bytes) -> None:
    """mount(2): for what the new interface cannot say on old kernels. `options`: at most a page."""
    libc.check(_mount(source, target, fstype, 0, options), "mount", target)


def clone_tree(directory: int, path: bytes = b"", recursive: bool = False, follow: bool = True) -> int:
    """A detached copy of the mount at `path` (at `directory` itself when empty): what a bind mount is made of.

    Not to `follow` a symbolic link at the end of the path copies the link itself.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    flags |= 0 if follow else AT_SYMLINK_NOFOLLOW
    return libc.check(_open_tree(directory, path, flags), "open_tree", path)


def attach(mount: int, target: int) -> None:
    """Put a detached mount on the file or directory that `target` is open on."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    libc.check(_move_mount(mount, b"", target, b"", flags), "move_mount")


def attach_at(mount: int, path: bytes) -> None:
    libc.check(_move_mount(mount, b"", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), "move_mount", path)


def set_attributes(
    mount: int,
    attr_set: int,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    path: bytes = b"",
) -> None:
    """Change flags of a mount; flags not named stay, so that locked ones are never touched."""
    attributes = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    result = _mount_setattr(mount, path, flags, ctypes.addressof(attributes), ctypes.sizeof(attributes))
    libc.check(result, "mount_setattr", path or None)


def open_in(root: int, path: bytes, flags: int, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode: int = 0) -> int:
    """openat2 with `root` as if it were "/", never through a magic link of procfs; close-on-exec."""
    return libc.check(_open_in(root, path, flags, resolve, mode), "open", path)


def open_existing(root: int, path: bytes, flags: int, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) -> int:
    """The same; -1 where there is no such path."""
    fd = _open_in(root, path, flags, resolve, 0)
    if fd < 0 and ctypes.get_errno() in (2, 20):  # ENOENT, ENOTDIR
        return -1
    return libc.check(fd, "open", path)


def _open_in(root: int, path: bytes, flags: int, resolve: int, mode: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(64):
        fd: int = _openat2(root, path or b".", ctypes.addressof(how), ctypes.sizeof(how))
        if fd >= 0 or ctypes.get_errno() != 11:  # EAGAIN: a rename or mount raced with a ".." in the path; try again
            break
    return fd


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    libc.check(_pivot_root(new_root, put_old), "pivot_root")


def unmount(path: bytes, flags: int = MNT_DETACH) -> None:
    libc.check(_umount2(path, flags), "umount", path)


def filesystem_magic(fd: int) -> int:
    """f_type of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    libc.check(_fstatfs(fd, ctypes.addressof(buffer)), "fstatfs")
    return ctypes.c_long.from_buffer(buffer).value
