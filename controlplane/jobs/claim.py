"""Claim, renew, end: the conditional writes by which exactly one worker owns a job.

Every write after the claim carries the fence. 0 rows changed means that somebody else owns the job: stop at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.jobs.clock import ahead
from controlplane.jobs.declare import Kind, kind_of, kinds
from controlplane.jobs.models import Attempt, Job, JobState, Worker
from controlplane.jobs.stops import Fenced


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job until its lease ends."""

    job_id: str
    kind: Kind
    payload: Mapping[str, Any]
    fence: int
    attempt: int
    worker: str

    def mine(self) -> Any:
        """The job's row, if it is still ours."""
        return Job.objects.filter(pk=self.job_id, fence=self.fence, state=JobState.RUNNING)


def claim_next(worker_id: str) -> Claim | None:
    """The most urgent queued job that fits into the worker's free capacity, now running under its lease; None when there is none.

    Jobs that do not fit are skipped, not waited for.
    """
    if not Job.objects.filter(state=JobState.QUEUED).exists():
        return None  # the usual answer, without the write lock that atomic() takes on SQLite
    with transaction.atomic():
        worker = Worker.objects.select_for_update().filter(pk=worker_id, leaving=False).first()
        if worker is None:
            return None
        busy = Job.objects.filter(state=JobState.RUNNING).exclude(single="").values("single")
        candidates = Job.objects.filter(state=JobState.QUEUED, run_after__lte=Now(), kind__in=_fitting(worker))
        candidates = candidates.filter(Q(single="") | ~Q(single__in=busy)).order_by("-priority", "created_at", "id")
        if connection.features.has_select_for_update_skip_locked:
            candidates = candidates.select_for_update(skip_locked=True)
        job = candidates.first()
        return _take(job, worker) if job is not None else None


def _fitting(worker: Worker) -> list[str]:
    used: dict[str, int] = {}
    declared = kinds()
    for kind_name in Job.objects.filter(state=JobState.RUNNING, worker=worker.pk).values_list("kind", flat=True):
        for key, amount in (declared[kind_name].needs if kind_name in declared else {}).items():
            used[key] = used.get(key, 0) + amount
    capacity = worker.capacity
    return [
        name
        for name, kind in declared.items()
        if all(used.get(key, 0) + amount <= capacity.get(key, 0) for key, amount in kind.needs.items())
    ]


def _take(job: Job, worker: Worker) -> Claim | None:
    kind = kind_of(job.kind)
    try:
        with transaction.atomic():
            changed = Job.objects.filter(pk=job.pk, fence=job.fence, state=JobState.QUEUED).update(
                state=JobState.RUNNING,
                fence=F("fence") + 1,
                attempt=F("attempt") + 1,
                worker=worker.pk,
                lease_until=ahead(kind.lease),
                started_at=Now(),
                updated_at=Now(),
            )
    except IntegrityError:  # another worker has just begun a job that must run alone
        return None
    if not changed:
        return None
    fence, attempt = job.fence + 1, job.attempt + 1
    Attempt.objects.create(job=job, fence=fence, number=attempt, worker=worker.pk, host=worker.host)
    return Claim(job.pk, kind, job.payload, fence, attempt, worker.pk)


def renew(claim: Claim) -> bool:
    """Lengthens the lease. Returns whether a cancel was asked for. Raises Fenced."""
    if not claim.mine().update(lease_until=ahead(claim.kind.lease)):
        raise Fenced(claim.job_id)
    return bool(Job.objects.filter(pk=claim.job_id).values_list("cancel_requested", flat=True)[0])


def end(claim: Claim, state: JobState, *, result: dict[str, Any] | None = None, error: str = "") -> None:
    """The job is over: done, error or cancelled. Raises Fenced."""
    with transaction.atomic():
        _write(claim, outcome=state.value, error=error, state=state, result=result, finished_at=Now(), lease_until=None)
        if state == JobState.ERROR and not claim.kind.quiet:
            _failed(claim.job_id, claim.kind.name, state, error)


def again(claim: Claim, error: str) -> None:
    """The attempt failed and another is due, after a pause that doubles. Raises Fenced."""
    pause = min(claim.kind.backoff * 2 ** (claim.attempt - 1), 600.0)
    with transaction.atomic():
        _write(claim, outcome="error", error=error, state=JobState.QUEUED, run_after=ahead(pause), lease_until=None)


def release(claim: Claim) -> None:
    """The worker is leaving: queued again at once, and the attempt does not count. Raises Fenced."""
    with transaction.atomic():
        _write(claim, outcome="released", error="", state=JobState.QUEUED, attempt=F("attempt") - 1, lease_until=None)


def take_back(job: Job) -> bool:
    """A lease ran out: queued again, or lost when the attempts are spent. False when somebody was quicker."""
    spent = job.attempt >= job.max_attempts
    error = "The worker stopped giving signs of life."
    if job.cancel_requested:
        change: dict[str, Any] = {"state": JobState.CANCELLED, "finished_at": Now()}
    elif spent:
        change = {"state": JobState.LOST, "finished_at": Now(), "error": f"{error} No attempt is left."}
    else:
        change = {"state": JobState.QUEUED}
    with transaction.atomic():
        expired = Job.objects.filter(pk=job.pk, fence=job.fence, state=JobState.RUNNING, lease_until__lt=Now())
        if not expired.update(lease_until=None, updated_at=Now(), **_drop_key(job, change)):
            return False
        Attempt.objects.filter(job=job, fence=job.fence).update(ended_at=Now(), outcome="lost", error=error)
        if change["state"] == JobState.LOST:
            _failed(job.pk, job.kind, JobState.LOST, error)
    return True


def _write(claim: Claim, *, outcome: str, error: str, **fields: Any) -> None:
    job = claim.mine().select_for_update().first()
    if job is None or not claim.mine().update(error=error, updated_at=Now(), **_drop_key(job, fields)):
        raise Fenced(claim.job_id)
    Attempt.objects.filter(job_id=claim.job_id, fence=claim.fence).update(ended_at=Now(), outcome=outcome, error=error)


def _drop_key(job: Job, change: dict[str, Any]) -> dict[str, Any]:
    """A job that goes back to the queue while another with its key waits there gives the key up: both run."""
    back = change["state"] == JobState.QUEUED and job.dedup_key
    if back and Job.objects.filter(dedup_key=job.dedup_key, state=JobState.QUEUED).exclude(pk=job.pk).exists():
        return {**change, "dedup_key": ""}
    return change


def _failed(job_id: str, kind: str, state: JobState, error: str) -> None:
    events.record(
        "job.failed", actor=SYSTEM, target=f"job/{job_id}", data={"kind": kind, "state": state.value, "error": error[:500]}
    )
