"""Numbers of the system calls that libc does not wrap, for the machine we run on (x86_64, aarch64).

Source: Linux arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. From 424 on both tables agree.
"""

from __future__ import annotations

import os

MACHINE = os.uname().machine
_X86 = MACHINE == "x86_64"
if not _X86 and MACHINE != "aarch64":
    raise ImportError(f"machine {MACHINE!r} is not supported: containers run on x86_64 and aarch64")

CAPSET = 126 if _X86 else 91
CAPGET = 125 if _X86 else 90
PIVOT_ROOT = 155 if _X86 else 41
SETRESUID = 117 if _X86 else 147
SETRESGID = 119 if _X86 else 149
SETGROUPS = 116 if _X86 else 159
KEYCTL = 250 if _X86 else 219
IOPRIO_SET = 251 if _X86 else 30
SCHED_SETATTR = 314 if _X86 else 274
SET_MEMPOLICY = 238 if _X86 else 237
SECCOMP = 317 if _X86 else 277
BPF = 321 if _X86 else 280
EXECVEAT = 322 if _X86 else 281

PIDFD_SEND_SIGNAL = 424
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
FSPICK = 433
PIDFD_OPEN = 434
CLONE3 = 435
CLOSE_RANGE = 436
OPENAT2 = 437
PIDFD_GETFD = 438
MOUNT_SETATTR = 442
QUOTACTL_FD = 443
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
