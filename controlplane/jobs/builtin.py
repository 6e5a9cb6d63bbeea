"""The jobs of the ground itself."""

from __future__ import annotations

import datetime
from typing import Any

from controlplane.jobs.declare import Schedule, job


@job("jobs.sleep", operation="Job Run", quiet=True)
def sleep(ctx: Any, *, seconds: float = 60) -> None:
    """A self-test: works for `seconds`, shows progress, and stops when told."""
    ctx.log(f"Sleeping for {seconds} s.")
    steps = max(1, round(seconds * 2))
    for step in range(steps):
        ctx.wait(seconds / steps)
        ctx.progress(step + 1, steps)


@job("jobs.fail", operation="Job Run", max_attempts=1, quiet=True)
def fail(ctx: Any) -> None:
    """A self-test: fails."""
    ctx.log("This job fails on purpose.")
    raise RuntimeError("this job fails on purpose")


@job("jobs.expire", operation="Job Run", single=True)
def expire(ctx: Any, *, days: float = 30, system_days: float = 1) -> dict[str, int]:
    """Removes jobs that ended more than `days` ago with their logs; the system's own, if all went well, after `system_days`."""
    from controlplane.jobs.clock import database_now
    from controlplane.jobs.models import Job

    now = database_now()
    ended = Job.objects.filter(finished_at__isnull=False)
    removed = 0
    for jobs in (
        ended.filter(finished_at__lt=now - datetime.timedelta(days=days)),
        ended.filter(finished_at__lt=now - datetime.timedelta(days=system_days), actor_kind="system", state="done"),
    ):
        # 200 a transaction: on SQLite a longer one would hold up every other writer
        while batch := list(jobs.values_list("pk", flat=True)[:200]):
            ctx.check()
            with ctx.fenced():
                Job.objects.filter(pk__in=batch).delete()
            removed += len(batch)
            ctx.progress(removed, 0, "removed")
    ctx.log(f"Removed {removed} jobs.")
    return {"removed": removed}


@job("events.compact", operation="Event Compact", max_attempts=1, single=True)
def compact_events(ctx: Any, *, days: float = 365) -> dict[str, int]:
    """Removes events older than `days`; a signed checkpoint stays, so that the rest can still be verified."""
    from controlplane.api.actor import SYSTEM
    from controlplane.events.compact import compact
    from controlplane.jobs.clock import database_now

    removed = compact(SYSTEM, before=database_now() - datetime.timedelta(days=days))
    ctx.log(f"Removed {removed} events.")
    return {"removed": removed}


@job("events.anchor", operation="Event Verify", max_attempts=1, single=True, quiet=True)
def anchor_events(ctx: Any) -> None:
    """Writes the signed head of the events to a second place, so that a truncated table is found."""
    from controlplane.events import anchor

    anchor.write()


@job("api.expire", operation="Job Run", single=True, quiet=True)
def expire_rows(ctx: Any) -> dict[str, int]:
    """Removes idempotency keys after 24 hours and browser sessions after their end."""
    from controlplane.api import idempotency
    from controlplane.users import sessions

    return {"keys": idempotency.expire(), "sessions": sessions.expire()}


SCHEDULES = [
    Schedule("events.anchor", "30 * * * * *", priority=100),
    Schedule("api.expire", "0 47 * * * *", priority=100),
    Schedule("events.compact", "0 41 2 * * *", priority=100),
    Schedule("jobs.expire", "0 17 * * * *", priority=100),
]
