"""What the scheduler answers: assignments, and explanations for the tasks it could not place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Assignment:
    task_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A task that stays PENDING: how many nodes each filter refused. `reasons` maps the filter's words to a count of nodes."""

    task_id: str
    nodes: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return explain(self.nodes, self.reasons)


@dataclass(frozen=True, slots=True)
class Plan:
    assignments: tuple[Assignment, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()


def explain(nodes: int, reasons: Mapping[str, int]) -> str:
    """ "no suitable node (2 nodes: 1 not ready (down), 1 constraint node.labels.zone==a)"."""
    if not nodes:
        return "no suitable node (the cluster has no nodes: join one with `wharf node token`)"
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count} {reason}" for reason, count in ordered)
    return f"no suitable node ({nodes} {'node' if nodes == 1 else 'nodes'}: {listed})"


def count(refusals: Mapping[str, str]) -> dict[str, int]:
    """Node id -> reason, turned into reason -> number of nodes."""
    return dict(Counter(refusals.values()))
