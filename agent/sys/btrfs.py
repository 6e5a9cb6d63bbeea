"""btrfs subvolumes, snapshots and size limits by ioctl (include/uapi/linux/btrfs.h); the btrfs program is not needed.

Everything takes the path of a directory or subvolume that the caller owns. Raises OSError.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from typing import Final

from agent.sys import mountapi

_SUPER_MAGIC: Final = 0x9123683E
_SUBVOL_CREATE: Final = 0x5000940E
_SNAP_DESTROY: Final = 0x5000940F
_SNAP_CREATE_V2: Final = 0x50009417
_INO_LOOKUP: Final = 0xD0009412
_QUOTA_CTL: Final = 0xC0109428
_QGROUP_CREATE: Final = 0x4010942A
_QGROUP_LIMIT: Final = 0x8030942B
_QUOTA_RESCAN_WAIT: Final = 0x942E
_FIRST_INODE: Final = 256  # BTRFS_FIRST_FREE_OBJECTID: the root directory of every subvolume
_QUOTA_ENABLE: Final = 1
_LIMIT_REFERENCED: Final = 1
_GONE: Final = (errno.EBUSY, errno.ENOENT, errno.EINVAL, errno.ENOTCONN)


def is_btrfs(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return mountapi.filesystem_magic(fd) == _SUPER_MAGIC
    finally:
        os.close(fd)


def create(path: str) -> None:
    """A new, empty subvolume at `path`."""
    _in_parent(path, _SUBVOL_CREATE, -1)


def snapshot(source: str, path: str) -> None:
    """A writable copy of the subvolume `source` at `path`, at once whatever its size."""
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            name = os.fsencode(os.path.basename(path))
            fcntl.ioctl(directory, _SNAP_CREATE_V2, bytearray(struct.pack("=qQQ32x4040s", fd, 0, 0, name)))
        finally:
            os.close(directory)
    finally:
        os.close(fd)


def destroy(path: str) -> None:
    """Remove the subvolume with all it holds; ENOTEMPTY while another subvolume lies in it."""
    _in_parent(path, _SNAP_DESTROY, 0)


def _in_parent(path: str, request: int, unused: int) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        # a bytearray: fcntl copies bytes into a buffer of 1024
        fcntl.ioctl(directory, request, bytearray(struct.pack("=q4088s", unused, os.fsencode(os.path.basename(path)))))
    finally:
        os.close(directory)


def is_subvolume(path: str) -> bool:
    info = os.lstat(path)
    return info.st_ino == _FIRST_INODE and os.path.isdir(path) and not os.path.islink(path)


def limit(path: str, size: int) -> None:
    """Let the subvolume refer to at most `size` bytes, what it shares with others included. Switches accounting on at first."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        argument = struct.pack("=QQQQQQ", 0, _LIMIT_REFERENCED, size, 0, 0, 0)  # qgroup 0: the subvolume that fd is on
        try:
            fcntl.ioctl(fd, _QGROUP_LIMIT, argument)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            fcntl.ioctl(fd, _QUOTA_CTL, array.array("Q", [_QUOTA_ENABLE, 0]))
            fcntl.ioctl(fd, _QUOTA_RESCAN_WAIT)  # until then a new snapshot's bytes are not counted
            fcntl.ioctl(fd, _QGROUP_LIMIT, argument)
    finally:
        os.close(fd)


def identifier(path: str) -> int:
    """The subvolume's number, which is also that of its qgroup (0/<number>)."""
    argument = bytearray(struct.pack("=QQ4080s", 0, _FIRST_INODE, b""))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _INO_LOOKUP, argument)
    finally:
        os.close(fd)
    number: int = struct.unpack_from("=Q", argument)[0]
    return number


def forget(directory: str, number: int) -> None:
    """Remove the qgroup of a destroyed subvolume, where the kernel does not do so by itself (it does from 6.12 on)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _QGROUP_CREATE, struct.pack("=QQ", 0, number))
    except OSError as error:
        if error.errno not in _GONE:
            raise
    finally:
        os.close(fd)
