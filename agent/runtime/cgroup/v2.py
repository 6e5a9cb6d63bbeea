"""OCI resources as writes to version 2 files (kernel admin-guide/cgroup-v2). Values of v1 are converted as runc converts them."""

from __future__ import annotations

import os

from agent.runtime.cgroup.v1 import limit_word, rdma_line
from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from agent.runtime.cgroup.v1 import Write


SECTIONS = {
    "memory": ("memory",),
    "cpu": ("cpu", "cpuset"),
    "pids": ("pids",),
    "blockIO": ("blkio",),
    "hugepageLimits": ("hugetlb",),
    "rdma": ("rdma",),
}


def governed(resources: dict[str, Any], v1_controllers: Container[str]) -> dict[str, Any]:
    """Those sections of `resources` that v1 leaves to v2."""
    left = {
        name: value
        for name, value in resources.items()
        if not any(controller in v1_controllers for controller in SECTIONS.get(name, ()))
    }
    cpu = resources.get("cpu") or {}
    if "cpu" not in left and "cpuset" not in v1_controllers:  # each of the two controllers may be on its own side
        left["cpu"] = {key: cpu[key] for key in ("cpus", "mems") if key in cpu}
    elif "cpu" not in left and "cpu" not in v1_controllers:
        left["cpu"] = {key: cpu[key] for key in cpu if key not in ("cpus", "mems")}
    return left


def settings(resources: dict[str, Any], directory: str = "") -> list[Write]:
    """In the order they have to be written; devices are a BPF program, see `devices`. `directory`: the cgroup, to see which of
    two schedulers weighs its input and output."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids")),
        *_block_io(resources.get("blockIO") or {}, directory),
        *_others(resources),
        *_unified(resources.get("unified") or {}),
    ]


def weight_of_shares(shares: int) -> int:
    """cpu.weight of cpu.shares: 2 -> 1, 1024 -> 100, 262144 -> 10000, runc's newer curve (1.3.2), computed in logarithms."""
    from math import ceil, log2

    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    length = log2(shares)
    return ceil(10 ** ((length * length + 125 * length) / 612 - 7 / 34))


def _memory(memory: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    for key in ("swappiness", "disableOOMKiller", "kernelTCP"):
        if memory.get(key):
            raise InvalidConfig(f"memory.{key} has no counterpart in cgroup v2; leave it out")
    limit = memory.get("limit")
    if memory.get("swap"):
        writes.append(("memory", "memory.swap.max", limit_word(swap_alone(memory)), False))
    elif limit == -1:
        writes.append(("memory", "memory.swap.max", "max", False))
    if limit:
        writes.append(("memory", "memory.max", limit_word(limit), True))
    if memory.get("reservation"):
        writes.append(("memory", "memory.low", limit_word(memory["reservation"]), True))
    return writes


def swap_alone(memory: dict[str, Any]) -> int:
    """`memory.swap`, which counts memory too, as v2 counts it; negative is unlimited."""
    limit, both = memory.get("limit"), int(memory["swap"])
    if both < 0:
        return both
    if not limit or limit < 0 or both < limit:
        raise InvalidConfig("memory.swap counts memory and swap together: set memory.limit, and swap not below it")
    return both - int(limit)


def _cpu(cpu: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise InvalidConfig("cpu.realtimeRuntime and realtimePeriod have no counterpart in cgroup v2; leave them out")
    if cpu.get("idle") is not None:
        writes.append(("cpu", "cpu.idle", str(cpu["idle"]), True))
    if cpu.get("shares") and not cpu.get("idle"):
        writes.append(("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])), True))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        writes.append(("cpu", "cpu.max", f"{quota if quota and quota > 0 else 'max'} {period or 100000}", True))
    if cpu.get("burst") is not None:
        writes.append(("cpu", "cpu.max.burst", str(cpu["burst"]), True))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            writes.append(("cpuset", f"cpuset.{key}", cpu[key], True))
    return writes


def _pids(pids: dict[str, Any] | None) -> list[Write]:
    if not pids or pids.get("limit") is None:
        return []
    return [("pids", "pids.max", limit_word(pids["limit"]), True)]


def io_weight(weight: int) -> int:
    """io.weight of v1's blkio weight: 10 -> 1, 1000 -> 10000."""
    return 1 + (weight - 10) * 9999 // 990


def _block_io(block: dict[str, Any], directory: str) -> list[Write]:
    writes: list[Write] = []
    if not block:
        return writes
    bfq = os.access(directory + "/io.bfq.weight", os.F_OK)
    if block.get("leafWeight") or any(item.get("leafWeight") for item in block.get("weightDevice") or ()):
        raise InvalidConfig("blockIO.leafWeight has no counterpart in cgroup v2; leave it out")
    weights = [("", block["weight"])] if block.get("weight") else []
    for item in block.get("weightDevice") or ():
        if item.get("weight"):
            weights.append((f"{item['major']}:{item['minor']} ", item["weight"]))
    for device, weight in weights:
        if bfq:
            writes.append(("io", "io.bfq.weight", f"{device}{weight}", True))
        else:
            writes.append(("io", "io.weight", f"{device}{io_weight(weight)}", True))
    for key, word in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for item in block.get(key) or ():
            writes.append(("io", "io.max", f"{item['major']}:{item['minor']} {word}={item['rate']}", True))
    return writes


def _others(resources: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    for item in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{item['pageSize']}.rsvd.max", str(item["limit"]), False))
        writes.append(("hugetlb", f"hugetlb.{item['pageSize']}.max", str(item["limit"]), True))
    for device, limits in (resources.get("rdma") or {}).items():
        writes.append(("rdma", "rdma.max", rdma_line(device, limits), True))
    return writes


def _unified(files: dict[str, str]) -> list[Write]:
    writes: list[Write] = []
    for file, value in files.items():
        if "/" in file:
            raise InvalidConfig(f"resources.unified names {file!r}; use a file name without a slash, such as memory.high")
        writes.append((file.partition(".")[0], file, value, True))
    return writes
