"""Rows of background work."""

from controlplane.jobs.models.job import Attempt, Job, JobState, LogChunk, Step
from controlplane.jobs.models.schedule import ScheduleRow
from controlplane.jobs.models.worker import Lease, Worker

__all__ = ["Attempt", "Job", "JobState", "Lease", "LogChunk", "ScheduleRow", "Step", "Worker"]
