"""The care of blob stores: scrubbing, comparing with the database, moving to another store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext

MEGABYTE = 1_000_000


@job("registry.scrub", operation="Registry Maintain", max_attempts=1, single=True)
def scrub(ctx: JobContext, *, days: float = 30, megabytes: float = 20, minutes: float = 0) -> dict[str, object]:
    """Read blobs again that nobody verified for `days`, at most `megabytes` a second, for at most `minutes` (0: no limit).

    Spoilt blobs are quarantined: the next push of the image makes them whole.
    """
    from registry.actions.scrub import scrub as work
    from registry.storage import open_store

    box = minutes * 60 if minutes else None
    done = work(open_store(), days=days, rate=megabytes * MEGABYTE, time_box=box, report=ctx.progress, pause=ctx.wait)
    ctx.log(f"Read {done.blobs} blobs with {done.size} bytes.")
    for what, digests in (("spoilt", done.bad), ("missing", done.missing), ("restored from the trash", done.restored)):
        for digest in digests:
            ctx.log(f"{digest} was {what}.")
    if done.bad or done.missing:
        ctx.log("Push the images that use them again: the events blob.quarantined name their repositories.")
    return done.as_dict()


@job("registry.reconcile", operation="Registry Maintain", max_attempts=1, single=True)
def reconcile(ctx: JobContext, *, repair: bool = False) -> dict[str, object]:
    """Compare the blob store with the database, both ways. A report; `repair` also acts on it."""
    from registry.actions.reconcile import reconcile as work
    from registry.storage import open_store

    done = work(open_store(), repair=repair, report=ctx.progress)
    ctx.log(
        f"{done.blobs} blobs with {done.size} bytes; {done.missing.count} missing, {done.wrong_size.count} of a wrong size,"
        f" {done.orphans.count} files with {done.orphans.size} bytes that no row knows, {done.young} too young to say,"
        f" {done.quarantined} in quarantine."
    )
    for what, found in (("missing", done.missing), ("of a wrong size", done.wrong_size), ("without a row", done.orphans)):
        for digest in found.digests:
            ctx.log(f"{digest} is {what}.")
    if repair:
        ctx.log(f"Acted on {done.repaired} of them.")
    elif not done.clean:
        ctx.log("Nothing was changed; run it with repair to bring back what the trash has and to take the rest out of sight.")
    return done.as_dict()


@job("registry.migrate", operation="Registry Maintain", max_attempts=5, single=True)
def migrate(ctx: JobContext, *, megabytes: float = 0) -> dict[str, object]:
    """Move all blobs from WHARF_BLOB_STORE_ALSO to WHARF_BLOB_STORE while both serve, at most `megabytes` a second (0: all)."""
    from agent.protocol.errors import InvalidInput
    from registry.actions.moving import move
    from registry.storage import open_store
    from registry.storage.moving import MovingStore

    store = open_store()
    if not isinstance(store, MovingStore):
        raise InvalidInput("there is one store only: name the old one in WHARF_BLOB_STORE_ALSO, and restart web and worker")
    done = move(store, rate=megabytes * MEGABYTE, report=ctx.progress, pause=ctx.wait)
    ctx.log(f"Copied {done.copied} blobs with {done.size} bytes; {done.there} are in the new store.")
    for what, digests in (("spoilt in the old store", done.bad), ("missing in both stores", done.missing)):
        for digest in digests:
            ctx.log(f"{digest} is {what}: push its image again.")
    if done.uploads:
        ctx.log(f"{done.uploads} uploads still go on in the old store; run this again when they have ended.")
    if done.complete:
        ctx.log("The old store holds nothing that the new one lacks: take WHARF_BLOB_STORE_ALSO away and restart.")
    return done.as_dict()


SCHEDULES = [
    Schedule("registry.scrub", "0 20 1 * * *", {"minutes": 120}, priority=100),
    Schedule("registry.reconcile", "0 15 5 * * 0", priority=100),
]
