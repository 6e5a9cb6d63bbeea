"""OCI resources as properties of a systemd unit (systemd.resource-control(5)): what systemd can express of them."""

from __future__ import annotations

from agent.runtime.cgroup import v2
from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Property = tuple[str, tuple[str, Any]]

UNLIMITED = 2**64 - 1
PERIOD = 100_000  # microseconds, the kernel's default
QUOTA_STEP = 10_000  # microseconds a second: systemd takes whole percents
# files of `unified` that are one number or "max"
UNIFIED = {
    "cpu.weight": "CPUWeight", "memory.min": "MemoryMin", "memory.low": "MemoryLow", "memory.high": "MemoryHigh",
    "memory.max": "MemoryMax", "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax",
}  # fmt: skip


def accounting(v1: bool) -> list[Property]:
    names = ("MemoryAccounting", "CPUAccounting", "BlockIOAccounting" if v1 else "IOAccounting", "TasksAccounting")
    return [(name, ("b", True)) for name in names]


def limits(resources: dict[str, Any], v1: bool) -> list[Property]:
    """`v1`: systemd manages controllers of version 1, whose properties have other names."""
    found = _memory(resources.get("memory") or {}, v1) + _cpu(resources.get("cpu") or {}, v1)
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        found.append(("TasksMax", ("t", UNLIMITED if pids < 0 else max(pids, 1))))
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        found.append(("BlockIOWeight", ("t", weight)) if v1 else ("IOWeight", ("t", v2.io_weight(weight))))
    if not v1:
        found += _unified(resources.get("unified") or {})
    return found


def _memory(memory: dict[str, Any], v1: bool) -> list[Property]:
    found: list[Property] = []
    limit = memory.get("limit")
    if limit:
        found.append(("MemoryLimit" if v1 else "MemoryMax", ("t", _bytes(limit))))
    if v1:
        return found
    if memory.get("reservation"):
        found.append(("MemoryLow", ("t", _bytes(memory["reservation"]))))
    if memory.get("swap"):
        found.append(("MemorySwapMax", ("t", _bytes(v2.swap_alone(memory)))))
    return found


def _bytes(value: int) -> int:
    return UNLIMITED if value < 0 else value


def _cpu(cpu: dict[str, Any], v1: bool) -> list[Property]:
    found: list[Property] = []
    if cpu.get("idle") and not v1:
        found.append(("CPUWeight", ("t", 0)))  # systemd's word for idle
    elif cpu.get("shares"):
        found.append(("CPUShares", ("t", cpu["shares"])) if v1 else ("CPUWeight", ("t", v2.weight_of_shares(cpu["shares"]))))
    if cpu.get("quota") or cpu.get("period"):
        found += _quota(cpu.get("quota") or 0, cpu.get("period") or 0)
    for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(key) and not v1:
            found.append((name, ("ay", bits(cpu[key]))))
    return found


def _quota(quota: int, period: int) -> list[Property]:
    a_second = UNLIMITED
    if quota > 0:
        a_second = quota * 1_000_000 // (period or PERIOD)
        a_second += -a_second % QUOTA_STEP
    found: list[Property] = [("CPUQuotaPeriodUSec", ("t", period))] if period else []
    return [*found, ("CPUQuotaPerSecUSec", ("t", a_second))]


def bits(text: str) -> bytes:
    """A list such as "0-3,7" as a bit mask, the lowest byte first."""
    mask = 0
    try:
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                mask |= 1 << number
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is not a list of numbers such as 0-3,7") from error
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _unified(files: dict[str, str]) -> list[Property]:
    found: list[Property] = []
    for file, value in files.items():
        if file in UNIFIED and (value == "max" or value.isdigit()):
            found.append((UNIFIED[file], ("t", UNLIMITED if value == "max" else int(value))))
        elif file == "cpu.max":
            quota, _, period = value.partition(" ")
            found += _quota(0 if quota == "max" else int(quota), int(period or PERIOD))
        elif file in ("cpuset.cpus", "cpuset.mems"):
            found.append(("AllowedCPUs" if file == "cpuset.cpus" else "AllowedMemoryNodes", ("ay", bits(value))))
    return found
