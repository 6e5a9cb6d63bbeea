"""What one worker at a time does for all: fire schedules, take back expired leases, ring again, forget dead workers."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from controlplane.jobs import cron, doorbell
from controlplane.jobs.claim import take_back
from controlplane.jobs.clock import ahead
from controlplane.jobs.models import Job, JobState, Lease, Worker

EVERY = 5.0  # seconds
LEADER = "sweeper"
LEADER_LEASE = 15.0
UNHEARD = 30.0  # seconds a job may wait before the doorbell is rung again
FORGET = 3600.0  # seconds after a worker's last sign of life


def lead(worker_id: str) -> bool:
    """Is this worker the sweeper for the next LEADER_LEASE seconds? Takes a free or expired lease."""
    mine = Lease.objects.filter(name=LEADER).filter(Q(holder=worker_id) | Q(until__lt=Now()))
    if mine.update(holder=worker_id, until=ahead(LEADER_LEASE)):
        return True
    if Lease.objects.filter(name=LEADER).exists():
        return False
    try:
        with transaction.atomic():
            Lease.objects.create(name=LEADER, holder=worker_id, until=Now())
    except IntegrityError:
        return False
    return lead(worker_id)


def abdicate(worker_id: str) -> None:
    """A leaving sweeper lets the next one in at once."""
    Lease.objects.filter(name=LEADER, holder=worker_id).delete()


def sweep() -> float:
    """One round; every step is a conditional write, so two at once do no harm. Returns the seconds until the next is due."""
    due_in = cron.fire()
    for job in Job.objects.filter(state=JobState.RUNNING, lease_until__lt=Now()):
        if take_back(job):
            doorbell.ring(job.id)
    waiting = Job.objects.filter(state=JobState.QUEUED, run_after__lt=ahead(-UNHEARD), updated_at__lt=ahead(-UNHEARD))
    if waiting.exists():
        doorbell.ring()
    Worker.objects.filter(seen_at__lt=ahead(-FORGET)).delete()
    return EVERY if due_in is None else min(EVERY, max(due_in, 0.05))
