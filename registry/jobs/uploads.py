"""Uploads that nobody continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.uploads", max_attempts=1, quiet=True, single=True)
def sweep_uploads(ctx: JobContext) -> dict[str, int]:
    """End uploads that nobody continued within their time."""
    from registry.actions import uploads
    from registry.storage import open_store

    return {"removed": uploads.sweep(open_store())}


SCHEDULES = [Schedule("registry.uploads", "30 13 * * * *", priority=200)]
