"""What people and rooms do to jobs: each one transaction."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from agent.protocol.errors import Conflict, InvalidInput
from controlplane import events
from controlplane.api.actor import Actor
from controlplane.events import hints
from controlplane.jobs import doorbell
from controlplane.jobs.declare import kind_of
from controlplane.jobs.models import Job, JobState, Worker


def enqueue(
    kind: str,
    payload: dict[str, Any] | None = None,
    *,
    actor: Actor,
    priority: int = 1000,
    dedup_key: str | None = None,
    run_after: datetime.datetime | None = None,
    retry_of: str = "",
) -> Job:
    """A queued job, made in the caller's transaction; a worker is woken on commit.

    dedup_key: when a job with this key is still queued, that one is returned and no other is made. A running one does not count:
    it may have read what the caller just changed. Raises InvalidInput for an unknown kind or payload.
    """
    declared = kind_of(kind)
    body = payload or {}
    declared.check_payload(body)
    if not 1 <= priority <= 10000:
        raise InvalidInput("A job's priority is between 1 and 10000.")
    with transaction.atomic():
        row, created = insert(
            dedup_key or "",
            kind=kind,
            payload=body,
            priority=priority,
            actor_kind=actor.kind,
            actor_id=actor.id,
            actor_name=actor.name,
            single=kind if declared.single else "",
            max_attempts=declared.max_attempts,
            retry_of=retry_of,
            **({"run_after": run_after} if run_after else {}),
        )
        if created and actor.kind == "user":
            events.record("job.created", actor=actor, target=f"job/{row.id}", data={"kind": kind, "retry_of": retry_of})
        transaction.on_commit(lambda: announce(row.id, ring=created and run_after is None))
    return row


def insert(dedup_key: str, **fields: Any) -> tuple[Job, bool]:
    """A new row, or the queued one that has `dedup_key` already; inside the caller's transaction."""
    while dedup_key:
        # Not SKIP LOCKED: when the row is being claimed this very moment we must wait and see that it is no longer queued.
        queued = Job.objects.select_for_update().filter(dedup_key=dedup_key, state=JobState.QUEUED).first()
        if queued is not None:
            return queued, False
        try:
            with transaction.atomic():
                return Job.objects.create(dedup_key=dedup_key, **fields), True
        except IntegrityError:
            if not Job.objects.filter(dedup_key=dedup_key, state=JobState.QUEUED).exists():
                raise
    return Job.objects.create(**fields), True


def announce(job_id: str, *, ring: bool) -> None:
    """After a commit: consoles look at the job, and with `ring` a worker looks for work."""
    hints.publish("jobs", {"id": job_id})
    if ring:
        doorbell.ring(job_id)


def cancel(actor: Actor, job: Job) -> Job:
    """A queued job ends at once; a running one is asked to stop. Raises Conflict when it has ended already."""
    with transaction.atomic():
        ended = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, cancel_requested=True, finished_at=Now(), updated_at=Now()
        )
        asked = ended or Job.objects.filter(pk=job.pk, state=JobState.RUNNING).update(cancel_requested=True, updated_at=Now())
        if not asked:
            job.refresh_from_db()
            raise Conflict(f"The job has ended already: {job.state}.")
        events.record(
            "job.cancelled" if ended else "job.cancel_requested", actor=actor, target=f"job/{job.id}", data={"kind": job.kind}
        )
        transaction.on_commit(lambda: announce(job.id, ring=False))
    job.refresh_from_db()
    return job


def retry(actor: Actor, job: Job) -> Job:
    """A new job with the same kind and payload. Raises Conflict while the old one is queued or running."""
    if job.live:
        raise Conflict(f"The job is still {job.state}: cancel it first, or wait.")
    return enqueue(job.kind, job.payload, actor=actor, priority=job.priority, retry_of=job.id)


def set_capacity(actor: Actor, worker: Worker, capacity: dict[str, int]) -> Worker:
    """Changes the named keys of a worker's capacity; the others stay."""
    with transaction.atomic():
        row = Worker.objects.select_for_update().get(pk=worker.pk)
        row.capacity = {**row.capacity, **capacity}
        row.save(update_fields=["capacity"])
        events.record("worker.capacity_set", actor=actor, target=f"worker/{row.pk}", data={"capacity": row.capacity})
    return row
