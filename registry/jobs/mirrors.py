"""Runs of mirrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.mirror", max_attempts=4, backoff=30.0, lease=30)
def mirror(ctx: JobContext, *, mirror: str, quick: bool = False) -> dict[str, Any]:
    """Make a repository here and one elsewhere equal."""
    from registry.actions import mirror_runs

    return mirror_runs.run(mirror, mirror_runs.Control(ctx.job_id, ctx.log, ctx.wait, ctx.progress), quick=quick)


@job("registry.mirrors", max_attempts=1, quiet=True, single=True)
def due(ctx: JobContext) -> dict[str, int]:
    """Start the mirrors whose schedule is due."""
    from registry.actions import mirror_runs

    return {"started": mirror_runs.start_due()}


SCHEDULES = [Schedule("registry.mirrors", "20 * * * * *", priority=500)]
