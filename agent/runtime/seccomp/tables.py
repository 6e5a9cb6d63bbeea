"""System call numbers by name, up to Linux 6.18, for every architecture whose programs a node of ours can run.

A name follows the one before by one; `number=name` jumps. From 424 on all architectures agree. x32 has no table: it shares
x86_64's architecture word, kernels are built without it, and its numbers are refused.
"""

from __future__ import annotations

SHARED = """
    424=pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig fsmount fspick
    pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2 mount_setattr quotactl_fd
    landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount
    lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr
    file_getattr file_setattr
"""

# include/uapi/linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
# the OCI runtime spec's names
SCMP_ARCH = {"x86_64": "SCMP_ARCH_X86_64", "x86": "SCMP_ARCH_X86", "aarch64": "SCMP_ARCH_AARCH64", "arm": "SCMP_ARCH_ARM"}
X32 = "SCMP_ARCH_X32"
_ELSEWHERE = "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64"
ELSEWHERE = frozenset("SCMP_ARCH_" + word for word in _ELSEWHERE.split())  # no program of these runs on our machines
COMPAT = {"x86_64": "x86", "aarch64": "arm"}  # what a machine runs beside its own
WIDE = frozenset(("x86_64", "aarch64"))  # arguments are 64 bits wide
PRIVATE = 0xF0000  # ARM's own calls begin here, far from the table

_parsed: dict[str, dict[str, int]] = {}


def numbers(machine: str) -> dict[str, int]:
    """Number by name for a key of AUDIT_ARCH. Only the tables that are asked for are loaded: each costs 60 kB."""
    table = _parsed.get(machine)
    if table is None:
        table = _parsed[machine] = _parse(_words(machine))
    return table


def known(name: str) -> bool:
    """Whether any architecture has a call of this name."""
    return any(name in numbers(machine) for machine in AUDIT_ARCH)


def _parse(words: str) -> dict[str, int]:
    table: dict[str, int] = {}
    number = -1
    for word in words.split():
        jump, separator, name = word.rpartition("=")
        number = int(jump) if separator else number + 1
        table[name] = number
    return table


def _words(machine: str) -> str:
    if machine == "x86_64":
        from agent.runtime.seccomp.calls_x86_64 import WORDS
    elif machine == "x86":
        from agent.runtime.seccomp.calls_x86 import WORDS
    elif machine == "aarch64":
        from agent.runtime.seccomp.calls_aarch64 import WORDS
    else:
        from agent.runtime.seccomp.calls_arm import OWN, WORDS

        return WORDS + SHARED + OWN
    return WORDS + SHARED
