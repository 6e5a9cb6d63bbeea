"""Policies at work: pruning every quarter of an hour, retention once a night, promotions as they are pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.policies", operation="Registry Update", max_attempts=2, capacity={"policies": 1}, single=True)
def policies(ctx: JobContext, *, kind: str = "", policy: str = "", dry_run: bool = False) -> dict[str, int]:
    """Run one policy, or all of a kind that are on. A dry run says of each tag what would become of it, and why."""
    from registry.actions import runs
    from registry.models import Policy
    from registry.queries import standing

    if not dry_run and (reason := standing.current(fresh=True).read_only):
        ctx.log(f"The registry is read-only ({reason}): policies rest.")
        return {}
    rows = Policy.objects.filter(enabled=True).exclude(repository__deleted_at__isnull=False)
    rows = rows.filter(pk=policy) if policy else rows.filter(kind=kind)
    total: dict[str, int] = {}

    def report(done: int, count: int, text: str) -> None:
        ctx.check()
        ctx.log(text)
        ctx.progress(done, count, text)

    for row in rows.select_related("namespace__collection", "repository__collection").order_by("created_at", "id"):
        ctx.log(f"{row.kind} policy {row.pk} of {row.repository.full_name if row.repository else row.namespace.name}")
        for key, value in runs.run(row, report, dry_run=dry_run).items():
            total[key] = total.get(key, 0) + value
    return total


@job("registry.promote", max_attempts=4, quiet=True)
def promote(ctx: JobContext, *, repository: str, tag: str, digest: str) -> dict[str, int]:
    """Promote a tag that was just pushed, by every promotion policy of its repository that it meets."""
    from registry.actions import runs
    from registry.models import Policy, Tag

    done = 0
    if not Tag.objects.filter(repository=repository, name=tag, manifest__digest=digest).exists():
        ctx.log(f"{tag} has moved on; its next push has a promotion of its own.")
        return {"done": 0}
    rows = Policy.objects.filter(kind=Policy.Kind.PROMOTION, enabled=True, repository=repository)
    for row in rows.select_related("namespace__collection", "repository__collection").order_by("created_at", "id"):
        counts = runs.run(row, lambda number, count, text: ctx.log(text), names=[tag])
        done += counts["done"]
    return {"done": done}


@job("registry.quotas", operation="Registry Update", max_attempts=2, single=True)
def recount(ctx: JobContext) -> dict[str, int]:
    """Count every quota again from the blobs that its namespace links, and put right what differs."""
    from registry.actions import quotas

    wrong = quotas.recount()
    for text in wrong:
        ctx.log(text)
    return {"corrected": len(wrong)}


@job("registry.undo", max_attempts=2, quiet=True, single=True)
def end_windows(ctx: JobContext) -> dict[str, int]:
    """Forget what was deleted longer ago than the undo window; its blobs go at the next collection."""
    from registry.actions import repositories, trash

    start = trash.window_start()
    return {"repositories": repositories.forget_repositories(start), "manifests": trash.forget(start)}


SCHEDULES = [
    Schedule("registry.policies", "0 */15 * * * *", {"kind": "pruning"}, name="registry.pruning", priority=200),
    Schedule("registry.policies", "0 20 3 * * *", {"kind": "retention"}, name="registry.retention", priority=200),
    Schedule("registry.quotas", "0 10 3 * * *", priority=200),
    Schedule("registry.undo", "0 33 * * * *", priority=200),
]
