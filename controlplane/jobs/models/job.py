"""A job, its attempts, its log and its steps."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from controlplane.api.ids import LENGTH, new_id


class JobState(models.TextChoices):
    """queued, running, then done | error | cancelled | lost; a lost or failed attempt with attempts left goes back to queued."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"  # its workers died as often as it had attempts


LIVE = (JobState.QUEUED, JobState.RUNNING)


class Job(models.Model):
    """Work of the control plane. All times are the database's."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    kind = models.CharField(max_length=80, db_index=True)
    payload = models.JSONField(default=dict)
    priority = models.PositiveSmallIntegerField(default=1000)  # 1 to 10000; the larger runs first
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.QUEUED)
    actor_kind = models.CharField(max_length=16)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=150, blank=True)
    dedup_key = models.CharField(max_length=200, blank=True)  # at most one queued job has it
    single = models.CharField(max_length=80, blank=True)  # at most one running job has it
    run_after = models.DateTimeField(db_default=Now())

    attempt = models.PositiveIntegerField(default=0)  # claims that count; written by the claim and by graceful requeue
    max_attempts = models.PositiveIntegerField(default=1)
    fence = models.PositiveIntegerField(default=0)  # grows at every claim; every write of the runner carries it
    worker = models.CharField(max_length=LENGTH, blank=True, db_index=True)  # Worker.id of the claimer
    lease_until = models.DateTimeField(null=True)  # written by the claim and the renewals
    cancel_requested = models.BooleanField(default=False)  # written by actions.cancel only

    done = models.BigIntegerField(default=0)  # progress, written by the runner
    total = models.BigIntegerField(default=0)  # 0: unknown
    text = models.CharField(max_length=200, blank=True)
    result = models.JSONField(null=True)
    error = models.TextField(blank=True)  # one sentence; the traceback is in the log

    schedule = models.CharField(max_length=80, blank=True)  # ScheduleRow.name
    due_at = models.DateTimeField(null=True)  # the tick it was made for
    retry_of = models.CharField(max_length=LENGTH, blank=True)

    created_at = models.DateTimeField(db_default=Now(), db_index=True)
    started_at = models.DateTimeField(null=True)  # of the latest attempt
    finished_at = models.DateTimeField(null=True, db_index=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["state", "-priority", "created_at"], name="jobs_claim")]
        constraints = [
            models.UniqueConstraint(fields=["schedule", "due_at"], condition=~Q(schedule=""), name="jobs_one_a_tick"),
            models.UniqueConstraint(
                fields=["dedup_key"], condition=Q(state="queued") & ~Q(dedup_key=""), name="jobs_one_queued_a_key"
            ),
            models.UniqueConstraint(fields=["single"], condition=Q(state="running") & ~Q(single=""), name="jobs_single"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} {self.state}"

    @property
    def live(self) -> bool:
        return self.state in LIVE


class Attempt(models.Model):
    """One claim of a job, kept for the operator."""

    id: Any
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    fence = models.PositiveIntegerField()
    number = models.PositiveIntegerField()  # the job's attempt at that time
    worker = models.CharField(max_length=LENGTH)
    host = models.CharField(max_length=200)
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=12, blank=True)  # done, error, cancelled, lost, released
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["fence"]
        constraints = [models.UniqueConstraint(fields=["job", "fence"], name="jobs_attempt_fence")]

    def __str__(self) -> str:
        return f"{self.job_id} {self.fence} {self.outcome}"


class LogChunk(models.Model):
    """Up to 64 KiB of log; readers page by `seq`, which has no gaps within a job."""

    id: Any
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log")
    seq = models.PositiveIntegerField()
    attempt = models.PositiveIntegerField()
    at = models.DateTimeField(db_default=Now())
    text = models.TextField()

    class Meta:
        ordering = ["seq"]
        constraints = [models.UniqueConstraint(fields=["job", "seq"], name="jobs_log_seq")]

    def __str__(self) -> str:
        return f"{self.job_id} {self.seq}"


class Step(models.Model):
    """An effect that a job has had: written in the effect's own transaction, so that no later attempt repeats it."""

    id: Any
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=200)
    fence = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "name"], name="jobs_step_once")]

    def __str__(self) -> str:
        return f"{self.job_id} {self.name}"
