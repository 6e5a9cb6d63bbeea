"""Processes by pidfd, namespaces, rlimits, prctl (clone(2), pidfd_open(2), setns(2), prctl(2), prlimit(2))."""

from __future__ import annotations

import ctypes
import os

from agent.sys import libc, nr

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_CLOEXEC = 4


class _CloneArgs(ctypes.Structure):
    """struct clone_args, 88 bytes (include/uapi/linux/sched.h)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


class _Rlimit(ctypes.Structure):
    _fields_ = [("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64)]


_clone3 = libc.syscall(nr.CLONE3, libc.PTR, libc.SIZE)
_setns = libc.function("setns", libc.INT, libc.INT)
_unshare = libc.function("unshare", libc.INT)
_prctl = libc.function("prctl", libc.INT, libc.ULONG, libc.ULONG, libc.ULONG, libc.ULONG)
_prlimit = libc.function("prlimit64", libc.INT, libc.INT, libc.PTR, libc.PTR)
_close_range = libc.syscall(nr.CLOSE_RANGE, libc.UINT, libc.UINT, libc.UINT)
_sethostname = libc.function("sethostname", libc.STR, libc.SIZE)
_setdomainname = libc.function("setdomainname", libc.STR, libc.SIZE)
_personality = libc.function("personality", libc.ULONG)
_ioprio_set = libc.syscall(nr.IOPRIO_SET, libc.INT, libc.INT, libc.INT)
_sched_setattr = libc.syscall(nr.SCHED_SETATTR, libc.INT, libc.PTR, libc.UINT)
_set_mempolicy = libc.syscall(nr.SET_MEMPOLICY, libc.INT, libc.PTR, libc.ULONG)
_keyctl = libc.syscall(nr.KEYCTL, libc.INT, libc.STR, libc.LONG, libc.LONG, libc.LONG)
_pidfd_getfd = libc.syscall(nr.PIDFD_GETFD, libc.INT, libc.INT, libc.UINT)
_execve = libc.function("execve", libc.STR, libc.PTR, libc.PTR)
_sigaction = libc.function("sigaction", libc.INT, libc.PTR, libc.PTR)


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork with namespaces: (pid, pidfd) in the parent, (0, -1) in the child. `cgroup_fd`: start in that v2 cgroup.

    The calling process must be single-threaded, and the child must end in execve or os._exit.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=17)
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    if flags & CLONE_PARENT:
        args.exit_signal = 0  # the siblings' exit signal is the caller's own; the kernel refuses another
    pid = libc.check(_clone3(ctypes.addressof(args), ctypes.sizeof(args)), "clone3")
    return (pid, pidfd.value) if pid else (0, -1)


def setns(fd: int, flags: int) -> None:
    """Join the namespace of `fd`, or with a pidfd all namespaces of that process named in `flags`."""
    libc.check(_setns(fd, flags), "setns")


def unshare(flags: int) -> None:
    libc.check(_unshare(flags), "unshare")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    return libc.check(_prctl(option, arg2, arg3, arg4, arg5), "prctl")


def set_name(name: bytes) -> None:
    """The calling thread's name in /proc/<pid>/comm: at most 15 bytes, and a final NUL."""
    buffer = ctypes.create_string_buffer(name, 16)
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def getfd(pidfd: int, fd: int) -> int:
    """A duplicate of another process's file descriptor (pidfd_getfd(2))."""
    return libc.check(_pidfd_getfd(pidfd, fd, 0), "pidfd_getfd")


def set_rlimit(resource: int, soft: int, hard: int) -> None:
    """Set both limits of the calling process; 2**64-1 is unlimited."""
    limit = _Rlimit(soft, hard)
    libc.check(_prlimit(0, resource, ctypes.addressof(limit), None), "prlimit")


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec, so that execve leaves exactly 0..first-1."""
    libc.check(_close_range(first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC), "close_range")


def close_between(first: int, last: int) -> None:
    """Close descriptors first..last, both included; nothing when the range is empty."""
    if first <= last:
        libc.check(_close_range(first, last, 0), "close_range")


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    first = 3
    for fd in sorted(set(keep)):
        if fd >= first:
            close_between(first, fd - 1)
            first = fd + 1
    close_between(first, 0xFFFFFFFF)


def sethostname(name: bytes) -> None:
    libc.check(_sethostname(name, len(name)), "sethostname")


def setdomainname(name: bytes) -> None:
    libc.check(_setdomainname(name, len(name)), "setdomainname")


def personality(value: int) -> None:
    libc.check(_personality(value), "personality")


def ioprio_set(value: int) -> None:
    """I/O priority of the calling process: class << 13 | level (ioprio_set(2))."""
    libc.check(_ioprio_set(1, 0, value), "ioprio_set")


def sched_setattr(attributes: bytes) -> None:
    """Scheduler of the calling process from a packed struct sched_attr (sched_setattr(2))."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    libc.check(_sched_setattr(0, ctypes.addressof(buffer), 0), "sched_setattr")


def set_memory_policy(mode: int, nodes: int) -> None:
    """NUMA policy of the calling thread, kept over execve: MPOL_* with flags, and a mask of nodes (set_mempolicy(2))."""
    size = max(1, (nodes.bit_length() + 63) // 64)
    mask = (ctypes.c_ulong * size)(*(nodes >> 64 * word & 0xFFFFFFFFFFFFFFFF for word in range(size)))
    # one bit more than there are: the kernel takes one off
    libc.check(_set_mempolicy(mode, ctypes.addressof(mask) if nodes else None, size * 64 + 1 if nodes else 0), "set_mempolicy")


def new_session_keyring() -> None:
    """Leave the session keyring for a new one; without a name no other can be meant (KEYCTL_JOIN_SESSION_KEYRING(2const))."""
    keyctl_join_session_keyring = 1
    libc.check(_keyctl(keyctl_join_session_keyring, None, 0, 0, 0), "keyctl")


class ExecImage:
    """argv and envp laid out as C arrays beforehand, so that the exec itself is one call."""

    __slots__ = ("_argv", "_envp", "_keep")

    def __init__(self, args: list[bytes], env: list[bytes]) -> None:
        self._keep = (args, env)
        self._argv = (ctypes.c_char_p * (len(args) + 1))(*args, None)
        self._envp = (ctypes.c_char_p * (len(env) + 1))(*env, None)

    def execve(self, path: bytes) -> int:
        """Returns only on failure, with the errno: most directories of PATH do not have the program."""
        _execve(path, ctypes.addressof(self._argv), ctypes.addressof(self._envp))
        return ctypes.get_errno()


_SIGACTION_ZERO = ctypes.create_string_buffer(256)  # larger than struct sigaction on both machines; zeros are SIG_DFL


_RESETTABLE = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))  # SIGKILL, SIGSTOP, glibc's own two


def reset_signals() -> None:
    """Default action for every signal and an empty mask: Python's own handlers survive clone3, ignored ones even execve."""
    address = ctypes.addressof(_SIGACTION_ZERO)
    for number in _RESETTABLE:
        _sigaction(number, address, None)
    _pthread_sigmask(2, ctypes.addressof(_SIGACTION_ZERO), None)


_pthread_sigmask = libc.function("pthread_sigmask", libc.INT, libc.PTR, libc.PTR)


def start_time(pid: int) -> int:
    """Field 22 of /proc/pid/stat, clock ticks since boot: with the pid it names a process for ever."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(text.rpartition(b")")[2].split()[19])
