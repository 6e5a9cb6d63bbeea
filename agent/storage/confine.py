"""The extraction helper's system call filter: what a program that writes files never needs is refused.

A list of refusals, not of permissions: the interpreter's own calls differ between C libraries, and the namespaces, the chroot,
Landlock and the missing capabilities already bound what the rest can reach. No new process may start, only threads: that is the
helper's limit on pids. Sources: seccomp(2), Linux filter documentation; numbers from arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from agent.sys import nr, seccomp

# name: (x86_64, aarch64); -1 where the machine lacks the call.
_REFUSED: Final = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "personality": (135, 92),
}
_X86: Final = nr.MACHINE == "x86_64"
_ARCHITECTURE: Final = 0xC000003E if _X86 else 0xC00000B7  # AUDIT_ARCH_*
_CLONE: Final = 56 if _X86 else 220
_CLONE_THREAD: Final = 0x00010000
_X32_BIT: Final = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000


def _step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def program() -> bytes:
    """The filter in classic BPF over struct seccomp_data: nr at 0, arch at 4, the low half of the first argument at 16."""
    numbers = [pair[0 if _X86 else 1] for pair in _REFUSED.values()]
    steps = [
        _step(_LOAD, 4),
        _step(_EQUAL, _ARCHITECTURE, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, 0),
        _step(_AT_LEAST, _X32_BIT, 0, 1),
        _step(_RETURN, _KILL),
    ]
    for number in numbers:
        if number >= 0:
            steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.EPERM)]
    # clone3 keeps its flags in memory, where a filter cannot look; without it libc falls back to clone.
    steps += [_step(_EQUAL, nr.CLONE3, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    steps += [
        _step(_EQUAL, _CLONE, 0, 3),
        _step(_LOAD, 16),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def load() -> None:
    """For this thread and those it starts, for ever. Needs no_new_privs."""
    seccomp.Filter(program()).load(0)
