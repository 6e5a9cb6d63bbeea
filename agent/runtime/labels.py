"""AppArmor profiles and SELinux labels of processes and mounts (apparmor(7), selinux(8), proc_pid_attr(5)).

The label that execve gives is written to a file of procfs. A container could mount something else over /proc and so keep its
process unlabelled (CVE-2019-16884, CVE-2023-28642): hence a procfs of our own that no path leads to, its file checked to be one
of procfs, and the label read back.
"""

from __future__ import annotations

import errno
import os

from agent.runtime.errors import InvalidConfig
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

APPARMOR = "/sys/module/apparmor/parameters/enabled"  # N, too, where the module is built in and another was chosen at boot
PROFILES = "/sys/kernel/security/apparmor/profiles"
SELINUX = "/sys/fs/selinux/enforce"
FILESYSTEMS = "/proc/filesystems"
_LABELLED = (b"tmpfs", b"devpts", b"mqueue", b"overlay")  # filesystems that take the mount option context


class Labels:
    """What a process is to be labelled with; "" for nothing."""

    __slots__ = ("apparmor", "selinux")

    def __init__(self, apparmor: str = "", selinux: str = "") -> None:
        self.apparmor, self.selinux = apparmor, selinux


def of_process(process: dict[str, Any]) -> Labels | None:
    """Raises InvalidConfig where the security module is not there to enforce what is asked, or knows no such profile."""
    labels = Labels(process.get("apparmorProfile") or "", process.get("selinuxLabel") or "")
    if labels.apparmor:
        asked = f"process.apparmorProfile is {labels.apparmor!r}, but"
        if not apparmor_runs():
            raise InvalidConfig(f"{asked} this node does not run AppArmor; leave it out")
        if not is_loaded(labels.apparmor):
            raise InvalidConfig(f"{asked} {_not_loaded(labels.apparmor)}")
    if labels.selinux and not selinux_runs():
        asked = f"process.selinuxLabel is {labels.selinux!r}, but"
        if selinux_is_hidden():
            raise InvalidConfig(f"{asked} no policy can be seen: mount selinuxfs on {os.path.dirname(SELINUX)}, or leave it out")
        raise InvalidConfig(f"{asked} this node does not run SELinux; leave it out")
    return labels if labels.apparmor or labels.selinux else None


def _not_loaded(profile: str) -> str:
    return f"no profile {profile!r} is loaded on this node; load it with apparmor_parser, or name another"


def is_loaded(profile: str, path: str = PROFILES) -> bool:
    """False when the kernel's list of profiles, "name (mode)" a line, has it not. Where the list cannot be read, and of a stack
    or a namespace of profiles, the kernel says so when the process starts."""
    if profile == "unconfined" or profile.startswith((":", "&")) or "//&" in profile:
        return True
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return any(line.rpartition(" (")[0] == profile for line in file)
    except OSError:
        return True


def apparmor_runs(path: str = APPARMOR) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def selinux_runs(path: str = SELINUX) -> bool:
    return os.path.exists(path)


def selinux_is_hidden(path: str = FILESYSTEMS) -> bool:
    """Whether the kernel runs SELinux, but its file system is not mounted."""
    with open(path, encoding="ascii") as file:
        return any(line.split()[-1] == "selinuxfs" for line in file)


def mount_context(label: str, fstype: bytes) -> list[tuple[int, bytes, bytes | None, int]]:
    """linux.mountLabel as parameter of a new filesystem, for those that take it."""
    if not label or fstype not in _LABELLED:
        return []
    return [(api.FSCONFIG_SET_STRING, b"context", label.encode(errors="surrogateescape"), 0)]


def prepare(labels: Labels | None) -> list[tuple[int, bytes]]:
    """Open, while we still may mount, what `apply` writes: (descriptor, text)."""
    if labels is None:
        return []
    proc = api.new_filesystem(b"proc", [], 0)
    try:
        return attributes(proc, labels)
    finally:
        os.close(proc)


def attributes(proc: int, labels: Labels) -> list[tuple[int, bytes]]:
    """The files of the process that opens them, below the procfs `proc`."""
    found = []
    if labels.apparmor:
        try:
            fd = _open(proc, b"thread-self/attr/apparmor/exec")
        except FileNotFoundError:  # before Linux 5.8: shared by all modules
            fd = _open(proc, b"thread-self/attr/exec")
        found.append((fd, b"exec " + labels.apparmor.encode(errors="surrogateescape")))
    if labels.selinux:
        found.append((_open(proc, b"thread-self/attr/exec"), labels.selinux.encode(errors="surrogateescape")))
    return found


def _open(proc: int, path: bytes) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC, dir_fd=proc)
    if api.filesystem_magic(fd) != api.PROC_SUPER_MAGIC:
        os.close(fd)
        raise OSError(5, f"{path.decode()} is not a file of procfs")
    return fd


def apply(prepared: list[tuple[int, bytes]]) -> None:
    """Last before execve: a hook that is run after it would take the label, too."""
    for fd, text in prepared:
        wanted = text.removeprefix(b"exec ")
        try:
            os.write(fd, text)
        except OSError as error:
            raise _refused(error, wanted.decode(errors="replace"), apparmor=wanted is not text) from error
        held = os.pread(fd, 4096, 0).rstrip(b"\0\n")
        if held != wanted and not held.startswith(wanted + b" ("):  # AppArmor adds the mode
            raise OSError(5, f"the label {wanted.decode(errors='replace')} was written, but {held!r} is there")
        os.close(fd)


def _refused(error: OSError, label: str, apparmor: bool) -> OSError:
    number = error.errno or 0
    if apparmor and number == errno.ENOENT:
        return OSError(number, _not_loaded(label))
    if not apparmor and number == errno.EINVAL:
        return OSError(number, f"the policy of this node knows no context {label!r}; name another")
    return OSError(number, f"the label {label!r} may not be taken: {error.strerror}")
