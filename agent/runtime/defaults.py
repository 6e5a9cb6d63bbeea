"""What a container gets when nobody says otherwise: one readable table. docs/runtime.md explains each choice."""

from __future__ import annotations

import os

from agent.runtime import lock
from agent.runtime.seccomp.profile import default_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Docker's ten without MKNOD, NET_RAW, AUDIT_WRITE and SETFCAP; ping works by net.ipv4.ping_group_range.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PIDS_LIMIT = 4096
UMASK = 0o022

PING_GROUPS = "net.ipv4.ping_group_range"
SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",  # a service need not be root to listen on 80
    PING_GROUPS: "0 2147483647",  # ping without NET_RAW
}

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mounts() -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev/shm",  # noqa: S108  # a mount in the container
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
        },
    ]


def masked_paths() -> list[str]:
    """The table, and every processor's thermal_throttle that this machine has."""
    found = list(MASKED_PATHS)
    cpus = "/sys/devices/system/cpu"
    with os.scandir(cpus) as entries:
        names = sorted(entry.name for entry in entries if entry.name[:3] == "cpu" and entry.name[3:].isdigit())
    found += [f"{cpus}/{name}/thermal_throttle" for name in names if os.path.isdir(f"{cpus}/{name}/thermal_throttle")]
    return found


def default_config(
    args: list[str],
    *,
    env: list[str] | None = None,
    cwd: str = "/",
    uid: int = 0,
    gid: int = 0,
    additional_gids: list[int] | None = None,
    hostname: str = "",
    terminal: bool = False,
    network: str | None = "",
    capabilities: tuple[str, ...] = CAPABILITIES,
    userns: tuple[int, int, int] | None = None,
    readonly_rootfs: bool = False,
    privileged: bool = False,
) -> dict[str, Any]:
    """A complete OCI config.json. `network`: "" a new namespace, a path to join, None the host's.

    `userns`: (host uid, host gid, size) for container ids from 0 up. `privileged` removes every fence but the namespaces.
    """
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    if network is not None:
        namespaces.append({"type": "network", "path": network} if network else {"type": "network"})
    linux: dict[str, Any] = {
        "namespaces": namespaces,
        "resources": {"devices": [{"allow": privileged, "access": "rwm"}], "pids": {"limit": PIDS_LIMIT}},
        "maskedPaths": [] if privileged else masked_paths(),
        "readonlyPaths": [] if privileged else list(READONLY_PATHS),
    }
    if userns is not None:
        uid_base, gid_base, size = userns
        namespaces.append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid_base, "size": size}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid_base, "size": size}]
    if network is not None:
        linux["sysctl"] = dict(SYSCTLS)
        if userns is not None and not network:
            linux["sysctl"][PING_GROUPS] = f"0 {userns[2] - 1}"  # such a network counts in the container's own ids
    if not privileged:
        linux["seccomp"] = default_profile(capabilities)
    names = list(capabilities)
    locked = not privileged and lock.fits(capabilities)
    return {
        "ociVersion": "1.2.0",
        "hostname": hostname,
        "root": {"path": "rootfs", "readonly": readonly_rootfs},
        "process": {
            "terminal": terminal,
            "user": {"uid": uid, "gid": gid, "umask": UMASK, "additionalGids": additional_gids or []},
            "args": args,
            "env": env if env is not None else [PATH],
            "cwd": cwd,
            "noNewPrivileges": not privileged,
            "capabilities": {"bounding": names, "effective": names if uid == 0 else [], "permitted": names if uid == 0 else []},
        },
        "mounts": mounts(),
        "annotations": {lock.ANNOTATION: "on"} if locked else {},
        "linux": linux,
    }
