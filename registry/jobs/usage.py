"""How much is stored for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.usage", operation="Registry View", max_attempts=2, quiet=True, single=True)
def recount(ctx: JobContext) -> dict[str, int]:
    """Count again what repositories and namespaces hold, and what they share."""
    from registry.actions import usage

    found = usage.recount()
    ctx.log(
        f"{found.registry.repositories} repositories hold {found.registry.blobs} blobs with {found.registry.stored} bytes;"
        f" {found.unlinked_blobs} blobs with {found.unlinked} bytes are held by none."
    )
    return {
        "repositories": found.registry.repositories,
        "blobs": found.registry.blobs,
        "logical": found.registry.logical,
        "stored": found.registry.stored,
        "unlinked": found.unlinked,
    }


SCHEDULES = [Schedule("registry.usage", "15 */10 * * * *", priority=200)]
