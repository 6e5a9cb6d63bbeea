"""Background work of the control plane: the Job row is the truth, a Celery message only says "look".

Rooms above declare work beside themselves, in `<app>/jobs.py`:

    @job("registry.gc", operation="Registry Collect Garbage", max_attempts=1, capacity={"gc": 1})
    def gc(ctx: JobContext, *, dry_run: bool = False) -> dict[str, Any] | None: ...

    SCHEDULES = [Schedule("registry.gc", "0 0 3 * * *")]

and ask for it inside the transaction of the fact that needs it:

    enqueue("registry.gc", {"dry_run": True}, actor=actor)
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from controlplane.api.actor import Actor
from controlplane.jobs.declare import Schedule, job
from controlplane.jobs.stops import Cancelled, Fenced, Interrupted, Stop

if TYPE_CHECKING:
    from controlplane.jobs.context import JobContext as JobContext
    from controlplane.jobs.models import Job

__all__ = ["Cancelled", "Fenced", "Interrupted", "JobContext", "Schedule", "Stop", "enqueue", "job"]


def enqueue(
    kind: str,
    payload: dict[str, Any] | None = None,
    *,
    actor: Actor,
    priority: int = 1000,
    dedup_key: str | None = None,
    run_after: datetime.datetime | None = None,
) -> Job:
    """Makes a queued job in the caller's transaction and wakes a worker on commit; see controlplane.jobs.actions.enqueue."""
    from controlplane.jobs import actions  # models need the app registry, which imports this package first

    return actions.enqueue(kind, payload, actor=actor, priority=priority, dedup_key=dedup_key, run_after=run_after)


def __getattr__(name: str) -> Any:
    if name == "JobContext":  # for annotations that are evaluated; it needs the app registry
        from controlplane.jobs.context import JobContext

        return JobContext
    raise AttributeError(name)
