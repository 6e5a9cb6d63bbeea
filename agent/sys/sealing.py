"""A copy of an executable that nobody who reaches it by /proc/<pid>/exe can write to (CVE-2019-5736).

The cheap one is the file itself seen through an overlay of lower layers only, mounted nowhere: such a filesystem is read-only by
its nature, for every remount and every user, and its pages are the file's own, shared with every other user of the program. Where
overlay cannot be had (no privilege, a kernel without it) it is a sealed copy in memory, 7 MB for Python.
"""

from __future__ import annotations

import os

from agent.sys import memfd
from agent.sys import mountapi as api

OVERLAYFS_SUPER_MAGIC = 0x794C7630


def sealed_executable(path: str, empty: str, name: str) -> int:
    """A descriptor to execute `path` from (os.execve takes it), close-on-exec. `empty`: a directory that is the second layer."""
    path = os.path.realpath(path)
    try:
        return _through_overlay(path, empty)
    except OSError:
        return memfd.sealed_copy(path, name)


def _through_overlay(path: str, empty: str) -> int:
    directory, name = os.path.split(path)
    layers = os.fsencode(f"{_escaped(directory)}:{_escaped(empty)}")
    steps: list[tuple[int, bytes, bytes | None, int]] = [(api.FSCONFIG_SET_STRING, b"lowerdir", layers, 0)]
    mount = api.new_filesystem(b"overlay", steps, api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NODEV)
    try:
        return api.open_in(mount, os.fsencode(name), os.O_RDONLY)
    finally:
        os.close(mount)  # lives as long as the open file, and then as the process that runs it


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def runs_sealed() -> bool:
    """Whether the running program is such a copy: one in memory, or one that lies on an overlay mounted nowhere."""
    if memfd.runs_sealed():
        return True
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return is_sealed(fd)
    finally:
        os.close(fd)


def is_sealed(fd: int) -> bool:
    """Whether `fd` is a file of an overlay as `sealed_executable` makes it. The root of a machine may be an overlay, too."""
    flags = os.fstatvfs(fd).f_flag
    fenced = flags & os.ST_RDONLY and flags & os.ST_NOSUID and flags & os.ST_NODEV
    return bool(fenced) and api.filesystem_magic(fd) == OVERLAYFS_SUPER_MAGIC and not _reachable(fd)


def _reachable(fd: int) -> bool:
    """Whether the file's mount is in our namespace (proc_pid_fdinfo(5), proc_pid_mountinfo(5)). Not by its device: an overlay of
    several file systems gives its files numbers that no mount has."""
    with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as file:
        words = file.read(4096).split()
    mount = words[words.index(b"mnt_id:") + 1]
    with open("/proc/self/mountinfo", "rb", buffering=0) as file:
        return any(line.split(b" ", 1)[0] == mount for line in file.read(1 << 20).splitlines())
