"""Deliveries of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job
from registry.actions.deliveries import ATTEMPTS, BACKOFF

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.webhook", max_attempts=ATTEMPTS, backoff=BACKOFF, quiet=True, lease=30)
def deliver(ctx: JobContext, *, delivery: str) -> None:
    """Send one delivery to its endpoint."""
    from registry.actions import deliveries

    ctx.log(deliveries.send(delivery, last=ctx.attempt >= ATTEMPTS))


@job("registry.deliveries", max_attempts=1, quiet=True, single=True)
def expire(ctx: JobContext) -> dict[str, int]:
    """Forget old deliveries of webhooks."""
    from registry.actions import deliveries

    return deliveries.expire()


SCHEDULES = [Schedule("registry.deliveries", "0 33 * * * *", priority=100)]
