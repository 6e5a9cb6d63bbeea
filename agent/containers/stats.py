"""A container's figures: from its cgroup, and from its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def network_bytes(pid: int) -> dict[str, float]:
    """Bytes over the interfaces of the process's network but loopback; {} when it has ended. Columns as in proc(5), net/dev."""
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            rows = [line.partition(":")[::2] for line in list(file)[2:]]
    except OSError:
        return {}
    figures = [values.split() for name, values in rows if name.strip() != "lo"]
    return {"rx_bytes": float(sum(int(row[0]) for row in figures)), "tx_bytes": float(sum(int(row[8]) for row in figures))}


def flat_stats(stats: Mapping[str, Any]) -> dict[str, float]:
    """The cgroup's figures as `messages.Samples` names them."""
    memory, cpu, pids = stats.get("memory", {}), stats.get("cpu", {}), stats.get("pids", {})
    return {
        "cpu_seconds": float(cpu.get("usage") or 0) / 1e9,
        "memory_used": float(memory.get("usage") or 0),
        "memory_limit": float(memory.get("limit") or 0),  # 0: no limit
        "pids": float(pids.get("current") or 0),
    }
