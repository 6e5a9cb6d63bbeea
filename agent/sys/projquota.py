"""Project quotas: a directory tree that may not grow past a size.

Sources: ioctl_xfs_fsgetxattr(2) for the project of a directory, quotactl(2) and quotactl_fd (Linux 5.14) for the limit. xfs keeps
the limit whoever writes; ext4 lets a process with CAP_SYS_RESOURCE past it, and overlayfs writes as the one who mounted it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import Final

from agent.sys import libc, mountapi, nr

_XFS_SUPER_MAGIC: Final = 0x58465342
_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_FSXATTR: Final = "=IIIII8x"  # xflags, extsize, nextents, projid, cowextsize
_PROJECT_INHERIT: Final = 0x200
_PROJECT: Final = 2
_SET_QUOTA: Final = (0x800008 << 8 | _PROJECT) - (1 << 32)  # QCMD(Q_SETQUOTA, PRJQUOTA) as a C int
_BLOCK_LIMITS: Final = 1  # QIF_BLIMITS
_quotactl_fd = libc.syscall(nr.QUOTACTL_FD, libc.UINT, libc.INT, libc.UINT, libc.PTR)


def keeps_limits(path: str) -> bool:
    """Whether the file system below `path` holds overlayfs to a limit: xfs. Whether quotas are on, only `limit` shows."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return mountapi.filesystem_magic(fd) == _XFS_SUPER_MAGIC
    finally:
        os.close(fd)


def project(path: str) -> int:
    """The project of a directory, 0 = none. Raises OSError where the file system knows no projects."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _attributes(fd)[3]
    finally:
        os.close(fd)


def assign(path: str, number: int) -> None:
    """Make the empty directory `path`, and all that will be made in it, part of a project."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags, extent, _extents, _project, cow = _attributes(fd)
        fcntl.ioctl(fd, _FSSETXATTR, struct.pack(_FSXATTR, flags | _PROJECT_INHERIT, extent, 0, number, cow))
    finally:
        os.close(fd)


def limit(path: str, number: int, size: int) -> None:
    """Let the project hold `size` bytes, 0 = any number. OSError ESRCH or ENOSYS: no such quota is kept here."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        blocks = -(-size // 1024)
        block = ctypes.create_string_buffer(struct.pack("=QQQQQQQQI4x", blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS))
        libc.check(_quotactl_fd(fd, _SET_QUOTA, number, ctypes.addressof(block)), "quotactl", path)
    finally:
        os.close(fd)


def _attributes(fd: int) -> tuple[int, int, int, int, int]:
    found = fcntl.ioctl(fd, _FSGETXATTR, bytes(struct.calcsize(_FSXATTR)))
    flags, extent, extents, number, cow = struct.unpack(_FSXATTR, found)
    return flags, extent, extents, number, cow
