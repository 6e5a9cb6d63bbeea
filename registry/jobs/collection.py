"""Garbage collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.gc", operation="Registry Collect Garbage", max_attempts=1, capacity={"gc": 1}, lease=15, single=True)
def gc(ctx: JobContext, *, dry_run: bool = False) -> dict[str, int]:
    """Collect blobs that nothing refers to, expired uploads and old trash. A dry run counts and deletes nothing."""
    from registry.actions import collect
    from registry.limits import limit
    from registry.storage import open_store

    if dry_run:
        found = collect.candidates(limit("GC_GRACE"))
        ctx.log(f"Dry run: {found.blobs} blobs with {found.size} bytes and {found.links} unused links could go.")
        return found.as_dict()

    def report(done: int, text: str) -> None:
        ctx.check()  # between batches: whatever was claimed is finished by the next run
        ctx.progress(done, 0, text)

    done = collect.collect(open_store(), report=report)
    ctx.log(
        f"Collected {done.blobs} blobs with {done.size} bytes; dropped {done.links} unused links, {done.uploads} expired uploads"
        f" and {done.orphans} orphaned files; deleted {done.trashed_files_deleted} files from the trash."
    )
    return done.as_dict()


SCHEDULES = [Schedule("registry.gc", "0 40 3 * * *", priority=200)]
