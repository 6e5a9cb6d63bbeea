"""Files by descriptor: the calls that Python's os module lacks. Linux only.

Everything takes directory descriptors and names, so that no path is resolved twice. Sources: openat2(2), renameat2(2),
syncfs(2), ioctl_ficlonerange(2), lseek(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

from agent.sys import mountapi

# CDLL, unlike agent.sys.libc: these calls may block for seconds on a disk, so the interpreter lock has to be free meanwhile.
_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

_FICLONE: Final = 0x40049409
_AT_FDCWD: Final = -100
# What an untrusted path may never do: climb out, follow a link, or cross into /proc's magic.
_INSIDE: Final = mountapi.RESOLVE_BENEATH | mountapi.RESOLVE_NO_SYMLINKS | mountapi.RESOLVE_NO_MAGICLINKS


def open_beneath(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` under `root_fd` by openat2: never through a symbolic link, never out of the root. Close-on-exec.

    Raises `OSError`: ELOOP at a link, EXDEV at an escape, and what open(2) raises.
    """
    return mountapi.open_in(root_fd, path or b".", flags | os.O_CLOEXEC, _INSIDE, mode)


def rename(old: str, new: str, flags: int = RENAME_NOREPLACE) -> None:
    """renameat2 on plain paths; by default refuses to replace (EEXIST)."""
    if _renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), old, None, new)


def syncfs(fd: int) -> None:
    """Write back the whole file system that holds `fd`."""
    if _libc.syncfs(fd) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def clone_file(source_fd: int, target_fd: int) -> bool:
    """Share the source's extents (FICLONE). False where the file system cannot; the target is then untouched."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.ETXTBSY):
            return False
        raise
    return True


def copy_data(source_fd: int, target_fd: int, size: int) -> None:
    """Copy a file's bytes: shared extents if possible, else extent by extent, so that holes stay holes."""
    if size == 0 or clone_file(source_fd, target_fd):
        return
    os.ftruncate(target_fd, size)
    for start, end in data_extents(source_fd, size):
        position = start
        while position < end:
            try:
                copied = os.copy_file_range(source_fd, target_fd, end - position, position, position)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                copied = os.pwrite(target_fd, os.pread(source_fd, min(1 << 20, end - position), position), position)
            if copied == 0:
                return
            position += copied


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """The file's data as [start, end) pairs; what lies between is holes. One pair where holes are unknown to the file system."""
    extents: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            if error.errno == errno.EINVAL:
                return [(0, size)]
            raise
        extents.append((start, min(end, size)))
        position = end
    return extents
