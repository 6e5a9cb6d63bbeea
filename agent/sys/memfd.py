"""Run a program from a sealed copy in memory, so that nobody who reaches it by /proc/<pid>/exe can write to the file on disk."""

from __future__ import annotations

import fcntl
import os

F_ADD_SEALS = 1033
F_GET_SEALS = 1034
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


def sealed_copy(path: str, name: str) -> int:
    """A read-only memory file with the contents of `path`; sealed, hence never writable again. Close-on-exec."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        sent = 0
        while sent < size:
            copied = os.sendfile(fd, source, sent, size - sent)
            if not copied:
                raise OSError(5, f"{path} became shorter while it was copied")
            sent += copied
    finally:
        os.close(source)
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


def runs_sealed() -> bool:
    """Whether the running interpreter is such a copy."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, F_GET_SEALS) & SEALS == SEALS
    except OSError:
        return False  # not a memory file
    finally:
        os.close(fd)
