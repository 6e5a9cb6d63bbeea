"""Let a mounted ext4 or xfs grow to a larger device.

Sources: EXT4_IOC_RESIZE_FS in fs/ext4/ext4.h, XFS_IOC_FSGROWFSDATA in ioctl_xfs_fsgrowfs(2).
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_EXT4_RESIZE_FS: Final = 0x40086610
_XFS_FSGROWFSDATA: Final = 0x4010586E
_XFS_INODE_PERCENT: Final = 25  # mkfs.xfs' default for file systems below 1 TiB


def grow(root_fd: int, kind: str, size: int) -> None:
    """`root_fd` is open on the root directory, `size` the device's bytes. Raises OSError."""
    blocks = size // os.fstatvfs(root_fd).f_bsize
    if kind == "ext4":
        fcntl.ioctl(root_fd, _EXT4_RESIZE_FS, struct.pack("=Q", blocks))
    elif kind == "xfs":
        fcntl.ioctl(root_fd, _XFS_FSGROWFSDATA, struct.pack("=QI4x", blocks, _XFS_INODE_PERCENT))
    else:
        raise OSError(95, f"a file system of kind {kind} cannot grow here")
