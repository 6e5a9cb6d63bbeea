"""Upkeep of proxied namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.proxies", max_attempts=1, single=True)
def expire(ctx: JobContext) -> dict[str, int]:
    """Forget what nobody pulled through a proxy for as long as it keeps things."""
    from registry.actions import proxies

    removed = proxies.expire()
    ctx.log(f"Removed {removed} manifests that nobody pulled; garbage collection takes their blobs.")
    return {"removed": removed}


SCHEDULES = [Schedule("registry.proxies", "0 20 3 * * *", priority=200)]
