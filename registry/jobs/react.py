"""What follows events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.react", max_attempts=1, quiet=True, single=True)
def react(ctx: JobContext) -> dict[str, int]:
    """Hand new events to the registry's reactions: webhooks, promotion, mirroring."""
    from registry.actions import reactions

    return reactions.run(ctx.check)


SCHEDULES = [Schedule("registry.react", "12 * * * * *", priority=500)]
