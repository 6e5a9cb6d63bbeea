"""Background work of the registry."""

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


@job("registry.uploads", max_attempts=1, quiet=True, single=True)
def sweep_uploads(ctx: JobContext) -> dict[str, int]:
    """End uploads that nobody continued within their time."""
    from registry.actions import uploads
    from registry.storage import open_store

    return {"removed": uploads.sweep(open_store())}


@job("registry.keys", operation="Registry Rotate Keys", max_attempts=2, single=True)
def rotate_keys(ctx: JobContext) -> dict[str, str]:
    """A new signing key for access tokens. Tokens of the old one stay good until they expire."""
    from registry.token import keys

    kid = keys.rotate()
    ctx.log(f"Access tokens are signed with {kid} from now on.")
    return {"kid": kid}


SCHEDULES = [
    Schedule("registry.gc", "0 40 3 * * *", priority=200),
    Schedule("registry.uploads", "30 13 * * * *", priority=200),
    Schedule("registry.keys", "0 50 3 1 * *", priority=200),
]
