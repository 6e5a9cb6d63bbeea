"""Jobs and reactions in this process: what workers would do, one job after another."""

from __future__ import annotations

import datetime
import os
from urllib.parse import urlsplit

from django.db import connection

from controlplane.jobs.claim import claim_next
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.declare import discover
from controlplane.jobs.keeper import default_capacity
from controlplane.jobs.models import Job, JobState, Worker
from controlplane.jobs.run import run
from controlplane.jobs.sweep import sweep

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def run_jobs(*, hurry: bool = True, limit: int = 200) -> list[Job]:
    """Every queued job and those that they make, at once with `hurry`, whenever they were to run; returns them as they ended."""
    discover()
    worker = Worker.objects.create(host="test", pid=1, capacity=default_capacity(4))
    ran = []
    for _ in range(limit):
        if hurry:
            Job.objects.filter(state=JobState.QUEUED).update(run_after=PAST)
        claim = claim_next(worker.pk)
        if claim is None:
            return ran
        run(JobContext(claim, Signals()))
        ran.append(Job.objects.get(pk=claim.job_id))
    raise AssertionError(f"more than {limit} jobs: {[job.kind for job in ran[-10:]]}")


def lose_workers() -> None:
    """As if every worker had died: the leases of running jobs end, and whoever sweeps takes them back."""
    Job.objects.filter(state=JobState.RUNNING).update(lease_until=PAST)
    sweep()


def database_url() -> str:
    """This test's database, for a process of its own."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(os.environ["WHARF_DATABASE_URL"])._replace(path=f"/{name}").geturl()
