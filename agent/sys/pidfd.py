"""What a pidfd tells about a process that is not our child."""

from __future__ import annotations

import fcntl
import struct

# include/uapi/linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), first published size (64 bytes)
_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("=QQ11Ii")
_EXIT = 1 << 3  # PIDFD_INFO_EXIT, kernel >= 6.15


def exit_status(pidfd: int) -> int | None:
    """The wait status of an exited process, whoever its parent was; None when the kernel does not (yet) tell.

    The kernel keeps it only once the parent has reaped the process, and only for pidfds opened before that.
    """
    info = bytearray(_INFO.size)
    _INFO.pack_into(info, 0, _EXIT, *([0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None  # an older kernel (ENOTTY, EINVAL), or not reaped yet (ESRCH)
    fields = _INFO.unpack(info)
    return fields[-1] if fields[0] & _EXIT else None
