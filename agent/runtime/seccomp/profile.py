"""The default profile: what a container may ask of the kernel.

An allow list by subtraction: every call in `tables` is allowed unless it stands here, with its reason. Numbers that the table
does not know are refused with ENOSYS by the compiler, so a new kernel opens nothing; a golden list in the tests makes any change
of the result visible.
"""

from __future__ import annotations

from agent.runtime.seccomp import tables
from agent.sys import nr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REFUSED = {
    "reaches the kernel past this filter": "io_uring_setup io_uring_enter io_uring_register",
    "keys are not namespaced": "add_key request_key keyctl",
    "exploit helper, no container needs it": "userfaultfd",
    "loads another kernel": "kexec_load kexec_file_load",
    "moves memory of other processes": "migrate_pages move_pages",
    "changes the root of the mount namespace": "pivot_root",
    "swap and disks of the host": "swapon swapoff",
    "obsolete, or never implemented": "_sysctl afs_syscall create_module get_kernel_syms getpmsg nfsservctl putpmsg query_module"
    " security sysfs tuxcall uselib ustat vserver epoll_ctl_old epoll_wait_old",
    "names and labels of security modules": "lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    "extended file attributes of new kernels, not judged yet": "file_getattr file_setattr open_tree_attr",
}

BY_CAPABILITY = {
    "CAP_SYS_ADMIN": "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree"
    " perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday clock_settime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
}

# By argument, below: socket families, personalities, new namespaces.
BY_ARGUMENT = "socket personality clone clone3"

NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32 bit sizes, uname 2.6, both, and "tell me"


def _args(index: int, operator: str, value: int, value_two: int = 0) -> list[dict[str, Any]]:
    return [{"index": index, "value": value, "valueTwo": value_two, "op": "SCMP_CMP_" + operator}]


def default_profile(capabilities: Any = (), machine: str = nr.MACHINE) -> dict[str, Any]:
    """An OCI `linux.seccomp` object for a process whose bounding set is `capabilities` (names with CAP_)."""
    held = frozenset(capabilities)
    withheld = {name for names in REFUSED.values() for name in names.split()} | set(BY_ARGUMENT.split())
    granted: set[str] = set()
    for capability, names in BY_CAPABILITY.items():
        withheld.update(names.split())
        if capability in held:
            granted.update(names.split())
    allowed = sorted((set(tables.numbers(machine)) - withheld) | granted)
    entries: list[dict[str, Any]] = [_allow(allowed)]
    # AF_ALG (38) and AF_VSOCK (40) reach host services that no namespace fences
    entries += [_allow(["socket"], _args(0, *test)) for test in (("LT", 38), ("EQ", 39), ("GT", 40))]
    entries += [_allow(["personality"], _args(0, "EQ", value)) for value in PERSONALITIES]
    if "CAP_SYS_ADMIN" in held:
        entries.append(_allow(["clone", "clone3"]))
    else:
        entries.append(_allow(["clone"], _args(0, "MASKED_EQ", NEW_NAMESPACES)))
        # its flags are behind a pointer, which a filter cannot follow; libc falls back to clone
        entries.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [tables.SCMP_ARCH[machine]],
        "syscalls": entries,
    }


def _allow(names: list[str], args: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if args:
        entry["args"] = args
    return entry
