"""Let a mounted xfs grow to a larger device: XFS_IOC_FSGROWFSDATA (ioctl_xfs_fsgrowfs(2))."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_FSGROWFSDATA: Final = 0x4010586E
_INODE_PERCENT: Final = 25  # mkfs.xfs' default for file systems below 1 TiB


def grow(root_fd: int, size: int) -> None:
    """`root_fd` is open on the root directory, `size` the device's bytes. Raises OSError."""
    blocks = size // os.fstatvfs(root_fd).f_bsize
    fcntl.ioctl(root_fd, _FSGROWFSDATA, struct.pack("=QI4x", blocks, _INODE_PERCENT))
