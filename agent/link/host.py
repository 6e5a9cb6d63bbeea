"""What this node is and how busy it is: read from /proc and the file system, no programs started.

Sources: proc(5), statvfs(3), cgroups(7). Network addresses come from netlink, never /sys/class/net (inside a network namespace
sysfs may show another namespace's interfaces).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent.protocol import messages as m
from agent.sys import rtnetlink
from agent.sys.netlink import Netlink


def boot_id() -> str:
    """The kernel's id of this boot: a changed one means that every process of the old boot is dead."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def host_name() -> str:
    return os.uname().nodename


def total_memory() -> int:
    return _meminfo()["MemTotal"]


def cgroup_version() -> str:
    """v1, v2 or hybrid, by where the controllers are mounted."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    return "hybrid" if os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers") else "v1"


def inventory(
    epoch: int,
    data_root: str,
    *,
    graph_driver: str,
    graph_drivers: tuple[str, ...] = (),
    version: str,
    addresses: tuple[str, ...],
    labels: Mapping[str, str],
    problems: tuple[str, ...] = (),
) -> m.Inventory:
    """The node's description; `disk` figures are those of the file system that holds images and containers, in bytes."""
    system = os.uname()
    disk = os.statvfs(data_root)
    cores = len(os.sched_getaffinity(0))
    return m.Inventory(
        epoch=epoch,
        hostname=system.nodename,
        os="linux",
        architecture=system.machine,
        kernel=system.release,
        cores=cores,
        nano_cpus=cores * 1_000_000_000,
        memory=total_memory(),
        disk=disk.f_blocks * disk.f_frsize,
        disk_free=disk.f_bavail * disk.f_frsize,
        cgroup=cgroup_version(),
        graph_driver=graph_driver,
        graph_drivers=graph_drivers,
        agent_version=version,
        addresses=addresses,
        labels=labels,
        problems=problems,
    )


def addresses(bridge_prefix: str) -> tuple[str, ...]:
    """IPv4 addresses by which others reach this node: not loopback, not those of our own bridges."""
    with Netlink() as route:
        names = {link.ifindex: link.name for link in rtnetlink.links(route).values()}
        found = [(names.get(index, ""), address) for index, address, _ in rtnetlink.addresses(route)]
    return tuple(address for name, address in found if name != "lo" and not name.startswith(bridge_prefix))


def usage(data_root: str) -> dict[str, float]:
    """One sample of the whole node. `cpu_seconds`, `rx_bytes`, `tx_bytes` are counters, the rest are levels."""
    memory = _meminfo()
    disk = os.statvfs(data_root)
    received, sent = _network_bytes()
    return {
        "cpu_seconds": _busy_seconds(),
        "memory_used": float(memory["MemTotal"] - memory["MemAvailable"]),
        "memory_total": float(memory["MemTotal"]),
        "disk_used": float((disk.f_blocks - disk.f_bfree) * disk.f_frsize),
        "disk_total": float(disk.f_blocks * disk.f_frsize),
        "load1": os.getloadavg()[0],
        "rx_bytes": float(received),
        "tx_bytes": float(sent),
    }


def _meminfo() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        rows = (line.split() for line in file)
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}


def _busy_seconds() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _network_bytes() -> tuple[int, int]:
    """Bytes over every interface of our network namespace but loopback."""
    received = sent = 0
    with open("/proc/self/net/dev", encoding="ascii") as file:
        for line in list(file)[2:]:
            name, _, figures = line.partition(":")
            if name.strip() != "lo":
                fields = figures.split()
                received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent
