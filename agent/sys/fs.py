"""Files by descriptor: the calls that Python's os module lacks. Linux only.

Everything takes directory descriptors and names, so that no path is resolved twice. Sources: openat2(2), renameat2(2),
syncfs(2), ioctl_ficlonerange(2), unshare(2), capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

# The numbers of openat2, capset and friends are equal on every architecture that got them from the generic table; renameat2
# and syncfs go through their libc wrappers.
_NR_OPENAT2: Final = 437
_libc = ctypes.CDLL(None, use_errno=True)

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

_FICLONE: Final = 0x40049409
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUTS: Final = 0x04000000
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_PDEATHSIG: Final = 1
_CAP_VERSION_3: Final = 0x20080522

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_SETFCAP: Final = 31

# What an untrusted path may never do: climb out, follow a link, or cross into /proc's magic.
_INSIDE: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def _check(result: int, path: bytes | str = b"") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


def open_beneath(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` under `root_fd` by openat2: never through a symbolic link, never out of the root. Close-on-exec.

    Raises `OSError`: ELOOP at a link, EXDEV at an escape, and what open(2) raises.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _INSIDE)
    while True:
        result: int = _libc.syscall(_NR_OPENAT2, root_fd, path or b".", ctypes.byref(how), ctypes.sizeof(how))
        # EAGAIN: a rename raced with the walk and the kernel could not prove that the result stays beneath.
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            return _check(result, path)


def rename(old: str, new: str, flags: int = RENAME_NOREPLACE) -> None:
    """renameat2 on plain paths; by default refuses to replace (EEXIST)."""
    _check(_libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags), old)


def syncfs(fd: int) -> None:
    """Write back the whole file system that holds `fd`."""
    _check(_libc.syncfs(fd))


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


def isolate() -> bool:
    """Move this process into new user, network, IPC and UTS namespaces. False where the kernel or a policy forbids it.

    Afterwards it owns no right over the host: its parent has to write uid_map and gid_map.
    """
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS) < 0:
        return False
    # unshare made us undumpable in the parent's eyes; it needs to open our map files.
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    return True


def die_with_parent(signal_number: int) -> None:
    """Ask for `signal_number` when the parent thread ends (prctl PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def keep_only(capabilities: tuple[int, ...]) -> None:
    """Drop every capability except these, for good: no_new_privs is set too."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    data = (_CapData * 2)()
    for capability in capabilities:
        bit = 1 << (capability % 32)
        data[capability // 32].effective |= bit
        data[capability // 32].permitted |= bit
    header = _CapHeader(_CAP_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), data))
