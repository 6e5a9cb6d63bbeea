"""OCI resources as writes to version 1 controller files (runtime-spec config-linux.md; kernel admin-guide/cgroup-v1)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Write = tuple[str, str, str, bool]  # controller, file, value, required: else a missing file is no error


def settings(resources: dict[str, Any], block_directory: str = "") -> list[Write]:
    """In the order they have to be written; devices are `devices.v1_rules`. `block_directory`: the cgroup under blkio, to see
    which of two schedulers weighs there."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids")),
        *_block_io(resources.get("blockIO") or {}, block_directory),
        *_others(resources),
    ]


def _memory(memory: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if memory.get("limit") == -1 and not memory.get("swap"):
        memory = {**memory, "swap": -1}  # no limit of the one is none of the sum
    for key, file, required in (
        ("limit", "memory.limit_in_bytes", True),
        ("swap", "memory.memsw.limit_in_bytes", False),  # absent without swap accounting
        ("reservation", "memory.soft_limit_in_bytes", True),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", False),
        ("swappiness", "memory.swappiness", True),
    ):
        value = memory.get(key)
        if value is not None and not (key != "swappiness" and value == 0):
            writes.append(("memory", file, str(value), required))
    if memory.get("useHierarchy"):
        writes.append(("memory", "memory.use_hierarchy", "1", False))  # what kernels since 5.11 do anyway
    if memory.get("disableOOMKiller"):
        writes.append(("memory", "memory.oom_control", "1", True))
    return writes


def _cpu(cpu: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    for key, controller, file in (
        ("shares", "cpu", "cpu.shares"),
        ("period", "cpu", "cpu.cfs_period_us"),  # before the quota, which is checked against it
        ("quota", "cpu", "cpu.cfs_quota_us"),
        ("burst", "cpu", "cpu.cfs_burst_us"),
        ("realtimePeriod", "cpu", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu", "cpu.rt_runtime_us"),
        ("idle", "cpu", "cpu.idle"),
        ("cpus", "cpuset", "cpuset.cpus"),
        ("mems", "cpuset", "cpuset.mems"),
    ):
        value = cpu.get(key)
        if value or (value == 0 and key in ("idle", "burst")):
            writes.append((controller, file, str(value), True))
    return writes


def _pids(pids: dict[str, Any] | None) -> list[Write]:
    if not pids or pids.get("limit") is None:
        return []
    return [("pids", "pids.max", limit_word(pids["limit"]), True)]


def _block_io(block: dict[str, Any], directory: str) -> list[Write]:
    writes: list[Write] = []
    if not block:
        return writes
    weight_file = "blkio.bfq.weight" if os.access(directory + "/blkio.bfq.weight", os.F_OK) else "blkio.weight"
    if block.get("weight"):
        writes.append(("blkio", weight_file, str(block["weight"]), True))
    if block.get("leafWeight"):
        writes.append(("blkio", "blkio.leaf_weight", str(block["leafWeight"]), True))
    for item in block.get("weightDevice") or ():
        device = f"{item['major']}:{item['minor']}"
        if item.get("weight"):
            writes.append(("blkio", weight_file + "_device", f"{device} {item['weight']}", True))
        if item.get("leafWeight"):
            writes.append(("blkio", "blkio.leaf_weight_device", f"{device} {item['leafWeight']}", True))
    for key, file in (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ):
        for item in block.get(key) or ():
            writes.append(("blkio", file, f"{item['major']}:{item['minor']} {item['rate']}", True))
    return writes


def _others(resources: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    for item in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{item['pageSize']}.rsvd.limit_in_bytes", str(item["limit"]), False))
        writes.append(("hugetlb", f"hugetlb.{item['pageSize']}.limit_in_bytes", str(item["limit"]), True))
    network = resources.get("network") or {}
    if network.get("classID"):
        writes.append(("net_cls", "net_cls.classid", str(network["classID"]), True))
    for item in network.get("priorities") or ():
        writes.append(("net_prio", "net_prio.ifpriomap", f"{item['name']} {item['priority']}", True))
    for device, limits in (resources.get("rdma") or {}).items():
        writes.append(("rdma", "rdma.max", rdma_line(device, limits), True))
    return writes


def limit_word(value: int) -> str:
    """The kernel's word for a limit where a negative number means none."""
    return "max" if value < 0 else str(value)


def rdma_line(device: str, limits: dict[str, Any]) -> str:
    words = [device]
    for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
        if limits.get(key) is not None:
            words.append(f"{word}={limits[key]}")
    return " ".join(words)
