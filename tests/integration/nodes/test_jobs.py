"""The fleet's work as jobs: what the loop does each second can also be asked for, with a log and a result."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.api.actor import SYSTEM
from controlplane.jobs import enqueue
from controlplane.jobs.claim import claim_next
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.models import Job, JobState, Worker
from controlplane.jobs.run import run
from nodes import actions
from nodes.models import Node, Task
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db(transaction=True)


def carry_out(kind: str) -> Job:
    """Queue a job of that kind and run it here; what the test's own acts have queued waits."""
    worker = Worker.objects.create(host="here", pid=1, capacity={"slots": 1})
    Job.objects.filter(state=JobState.QUEUED).update(run_after=timezone.now() + timedelta(days=1))
    made = enqueue(kind, {}, actor=SYSTEM)
    claim = claim_next(worker.pk)
    assert claim is not None
    assert claim.job_id == made.pk
    run(JobContext(claim, Signals()))
    return Job.objects.get(pk=made.pk)


def test_the_sweep_job_judges_nodes() -> None:
    row = fleet.node("n1")
    carry_out("nodes.sweep")  # the first look: nothing is judged before somebody watched
    Node.objects.filter(pk=row.pk).update(lease_until="2020-01-01T00:00:00Z")
    job = carry_out("nodes.sweep")
    assert job.state == JobState.DONE
    assert job.result == {"changed": 1}
    assert Node.objects.get().state == "down"


def test_the_schedule_job_places_tasks() -> None:
    fleet.image()
    fleet.node("n1")
    actions.create_service(fleet.user("root", admin=True), fleet.spec("web", replicas=2))
    job = carry_out("nodes.schedule")
    assert job.state == JobState.DONE
    while carry_out("nodes.schedule").result != {"changes": 0}:
        pass
    assert Task.objects.filter(node__hostname="n1").count() == 2
