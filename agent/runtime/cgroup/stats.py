"""What a container uses, read from whichever hierarchy governs each controller."""

from __future__ import annotations

from agent.runtime.cgroup.files import number, read, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NANOSECONDS_A_TICK = 10_000_000  # USER_HZ is 100 on both machines
NO_LIMIT = 1 << 62  # v1 spells "no limit" as the largest page multiple below 2**63


def collect(directory: Callable[[str], str | None], v2: str | None) -> dict[str, Any]:
    """`directory(controller)` is its v1 directory or None. Times in ns, sizes in bytes, a limit of None is unlimited.

    {"cpu": {usage, user, system, periods, throttled_periods, throttled}, "memory": {usage, peak, limit, swap, oom_kills, stat},
     "pids": {current, limit}, "io": [{major, minor, read_bytes, write_bytes, reads, writes}],
     "pressure": {"cpu" | "memory" | "io": {"some" | "full": {avg10, avg60, avg300 in percent, total in us}}}; empty without v2}
    """
    return {
        "cpu": _cpu(directory, v2),
        "memory": _memory(directory("memory"), v2),
        "pids": _pids(directory("pids") or v2),
        "io": _io_v1(blkio) if (blkio := directory("blkio")) else _io_v2(v2),
        "pressure": _pressure(v2),
    }


def oom_kills(memory: str | None, v2: str | None) -> int:
    """How many processes the kernel killed here for want of memory."""
    if memory:
        return table(memory + "/memory.oom_control").get("oom_kill", 0)
    return table(v2 + "/memory.events").get("oom_kill", 0) if v2 else 0


def _cpu(directory: Callable[[str], str | None], v2: str | None) -> dict[str, int]:
    account, cpu = directory("cpuacct"), directory("cpu")
    if account is None and v2:
        stat = table(v2 + "/cpu.stat")
        return {
            "usage": stat.get("usage_usec", 0) * 1000,
            "user": stat.get("user_usec", 0) * 1000,
            "system": stat.get("system_usec", 0) * 1000,
            "periods": stat.get("nr_periods", 0),
            "throttled_periods": stat.get("nr_throttled", 0),
            "throttled": stat.get("throttled_usec", 0) * 1000,
        }
    ticks = table(account + "/cpuacct.stat") if account else {}
    stat = table(cpu + "/cpu.stat") if cpu else {}
    return {
        "usage": (number(account + "/cpuacct.usage") or 0) if account else 0,
        "user": ticks.get("user", 0) * NANOSECONDS_A_TICK,
        "system": ticks.get("system", 0) * NANOSECONDS_A_TICK,
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled": stat.get("throttled_time", 0),
    }


def _memory(v1: str | None, v2: str | None) -> dict[str, Any]:
    if v1:
        limit = number(v1 + "/memory.limit_in_bytes")
        usage, peak = number(v1 + "/memory.usage_in_bytes") or 0, number(v1 + "/memory.max_usage_in_bytes") or 0
        with_swap = number(v1 + "/memory.memsw.usage_in_bytes")
        swap = max(0, with_swap - usage) if with_swap is not None else 0
        stat = table(v1 + "/memory.stat")
    elif v2:
        limit, usage = number(v2 + "/memory.max"), number(v2 + "/memory.current") or 0
        peak, swap = number(v2 + "/memory.peak") or 0, number(v2 + "/memory.swap.current") or 0
        stat = table(v2 + "/memory.stat")
    else:
        return {}
    unlimited = limit is None or limit > NO_LIMIT
    return {
        "usage": usage,
        "peak": peak,
        "limit": None if unlimited else limit,
        "swap": swap,
        "oom_kills": oom_kills(v1, v2),
        "stat": stat,
    }


def _pids(directory: str | None) -> dict[str, int | None]:
    if directory is None:
        return {}
    return {"current": number(directory + "/pids.current") or 0, "limit": number(directory + "/pids.max")}


def _io_v1(directory: str) -> list[dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for file, keys in (
        ("blkio.throttle.io_service_bytes", {"Read": "read_bytes", "Write": "write_bytes"}),
        ("blkio.throttle.io_serviced", {"Read": "reads", "Write": "writes"}),
    ):
        for line in read(f"{directory}/{file}").splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in keys:
                found.setdefault(words[0], {})[keys[words[1]]] = int(words[2])
    return [_io_entry(device, counts) for device, counts in found.items()]


def _io_v2(directory: str | None) -> list[dict[str, int]]:
    names = {"rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "reads", "wios": "writes"}
    entries = []
    for line in read(directory + "/io.stat").splitlines() if directory else ():
        device, *pairs = line.split()
        counts = {names[key]: int(value) for key, _, value in (pair.partition("=") for pair in pairs) if key in names}
        entries.append(_io_entry(device, counts))
    return entries


def _pressure(v2: str | None) -> dict[str, dict[str, dict[str, float]]]:
    """Lines as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"; also on a hybrid machine, whose v2 has no controllers."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("cpu", "memory", "io") if v2 else ():
        for line in _readable(f"{v2}/{name}.pressure").splitlines():
            kind, *pairs = line.split()
            found.setdefault(name, {})[kind] = {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return found


def _readable(path: str) -> str:
    try:
        return read(path)
    except OSError:  # EOPNOTSUPP: built in, and off
        return ""


def _io_entry(device: str, counts: dict[str, int]) -> dict[str, int]:
    major, _, minor = device.partition(":")
    empty = {"read_bytes": 0, "write_bytes": 0, "reads": 0, "writes": 0}
    return {"major": int(major), "minor": int(minor), **empty, **counts}
