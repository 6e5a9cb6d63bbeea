"""One round of the reconciler: decide, apply, place, commit, until nothing changes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nodes import queries
from nodes.actions.apply import apply
from nodes.actions.assign import assign
from nodes.orchestrator import reconcile
from nodes.scheduler import place

# Bounds, so that neither ten thousand new tasks nor a mistake in the decisions keep the reconciler from watching the nodes.
MAX_TURNS = 20
BUDGET = 1.5  # seconds of commits; what is left is for the next round


@dataclass(frozen=True, slots=True)
class Round:
    """`changes` made in all; `wake_at` (unix seconds) is when to look again though nothing happens; `settled`: a fixed point."""

    changes: int
    wake_at: float | None
    settled: bool


def reconcile_round() -> Round:
    """Bring tasks to what services want. Safe to run in several processes at once: every write is checked again."""
    total = 0
    deadline = time.monotonic() + BUDGET
    wake_at: float | None = None
    for _ in range(MAX_TURNS):
        snapshot = queries.cluster_snapshot()
        decision = reconcile(snapshot)
        wake_at = decision.wake_at
        changed = apply(decision, snapshot, deadline=deadline) if decision.changes else 0
        changed += assign(place(queries.cluster_snapshot() if changed else snapshot), deadline=deadline)
        total += changed
        if changed and time.monotonic() > deadline:
            break
        if not changed:
            return Round(total, wake_at, True)
    return Round(total, wake_at, False)
