"""What the charts draw: rates and levels from the ring of usage samples."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nodes.models import Container, Node, UsageSample
from nodes.queries import samples, stamp

Sample = Mapping[str, Any]
Value = float | None
BUCKET = 10  # seconds


def rate(earlier: Sample, later: Sample, *keys: str) -> Value:
    """Growth of counters per second; None over a restart (a counter that shrank) or where one is missing."""
    seconds = later["at"] - earlier["at"]
    if seconds <= 0 or any(key not in earlier or key not in later for key in keys):
        return None
    growth = sum(later[key] - earlier[key] for key in keys)
    return growth / seconds if growth >= 0 else None


def _series(found: Sequence[Sample], *columns: tuple[str, Callable[[Sample, Sample], Value]]) -> dict[str, Any]:
    pairs = list(itertools.pairwise(found))
    return {
        "at": [later["at"] for _, later in pairs],
        "series": [{"name": name, "values": [value(earlier, later) for earlier, later in pairs]} for name, value in columns],
        "limit": None,
    }


def _level(key: str) -> Callable[[Sample, Sample], Value]:
    return lambda _earlier, later: later.get(key)


def _percent_of_cores(earlier: Sample, later: Sample) -> Value:
    busy = rate(earlier, later, "cpu_seconds")
    return None if busy is None else busy * 100


def chart(kind: str, found: Sequence[Sample], *, cores: float = 1.0, memory_limit: float | None = None) -> dict[str, Any]:
    """cpu (percent of `cores`), memory (bytes) or network (bytes a second) over the samples."""
    if kind == "cpu":

        def share(earlier: Sample, later: Sample) -> Value:
            busy = _percent_of_cores(earlier, later)
            return None if busy is None else busy / cores

        return _series(found, ("CPU", share))
    if kind == "memory":
        return {**_series(found, ("Memory", _level("memory_used"))), "limit": memory_limit}
    return _series(
        found,
        ("received", lambda earlier, later: rate(earlier, later, "rx_bytes")),
        ("sent", lambda earlier, later: rate(earlier, later, "tx_bytes")),
    )


def node_chart(node: Node, kind: str) -> dict[str, Any]:
    return chart(kind, samples(node.pk), cores=max(node.nano_cpus / 1e9, 0.01), memory_limit=node.memory or None)


def container_chart(container: Container, kind: str) -> dict[str, Any]:
    found = samples(container.node_id, container.container_id)
    limit = found[-1].get("memory_limit") if found else None
    return chart(kind, found, memory_limit=limit if limit and limit < container.node.memory else None)


def fleet_chart(nodes: Iterable[Node], kind: str) -> dict[str, Any]:
    """All given nodes together, in buckets of ten seconds; a bucket in which no node reported is a gap."""
    known = {node.pk: node for node in nodes}
    cores = sum(node.nano_cpus for node in known.values()) / 1e9 or 1.0
    rows = UsageSample.objects.filter(node_id__in=known).order_by("node_id", "at").values_list("node_id", "at", "usage")
    by_node: dict[str, list[Sample]] = defaultdict(list)
    for node_id, at, usage in rows:
        by_node[node_id].append({"at": stamp(at), **usage})
    buckets: dict[int, float] = defaultdict(float)
    for found in by_node.values():
        for earlier, later in itertools.pairwise(found):
            value = _percent_of_cores(earlier, later) if kind == "cpu" else later.get("memory_used")
            if value is not None:
                buckets[int(later["at"]) // BUCKET * BUCKET] += value / cores if kind == "cpu" else value
    times = sorted(buckets)
    limit = None if kind == "cpu" else float(sum(node.memory for node in known.values())) or None
    return {
        "at": times,
        "series": [{"name": kind.upper() if kind == "cpu" else "Memory", "values": [buckets[key] for key in times]}],
        "limit": limit,
    }
