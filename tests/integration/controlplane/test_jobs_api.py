"""/api/v1/jobs and its neighbours as an administrator, an owner and a stranger see them."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from controlplane.api.actor import SYSTEM, actor_of_user
from controlplane.jobs import cron, enqueue
from controlplane.jobs.claim import claim_next
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.keeper import default_capacity
from controlplane.jobs.models import Job, Worker
from controlplane.jobs.run import run
from controlplane.users import actions as users

pytestmark = pytest.mark.django_db


def client_of(name: str, *, is_admin: bool = False) -> tuple[APIClient, Any]:
    user = users.create_user(SYSTEM, username=name, password="correct horse battery", is_admin=is_admin)
    _, secret = users.create_token(actor_of_user(user), user, name="t")
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client, user


@pytest.fixture
def admin() -> APIClient:
    return client_of("alice", is_admin=True)[0]


@pytest.fixture
def stranger() -> APIClient:
    return client_of("charlie")[0]


def work() -> None:
    worker = Worker.objects.create(host="h", pid=1, capacity=default_capacity(4))
    while (claim := claim_next(worker.pk)) is not None:
        run(JobContext(claim, Signals()))


def test_run_read_and_retry(admin: APIClient) -> None:
    made = admin.post("/api/v1/jobs", {"kind": "jobs.fail"}, format="json")
    assert made.status_code == 201, made.content
    job = admin.get(made["Location"]).json()
    assert job["state"] == "queued"
    work()
    job = admin.get(made["Location"]).json()
    assert (job["state"], job["attempts"][0]["outcome"]) == ("error", "error")
    log = admin.get(f"{made['Location']}/log").json()
    assert "on purpose" in log[0]["text"]
    assert admin.get(f"{made['Location']}/log?after={log[-1]['seq']}").json() == []
    again = admin.post(f"{made['Location']}/retry")
    assert again.json()["retry_of"] == job["id"]
    assert admin.post(f"/api/v1/jobs/{again.json()['id']}/cancel").json()["state"] == "cancelled"
    assert [row["state"] for row in admin.get("/api/v1/jobs?kind=jobs.fail").json()] == ["cancelled", "error"]


def test_refusals_explain_themselves(admin: APIClient, stranger: APIClient) -> None:
    assert admin.post("/api/v1/jobs", {"kind": "no.such"}, format="json").json()["code"] == "invalid_input"
    assert admin.post("/api/v1/jobs", {"kind": "jobs.sleep", "payload": {"x": 1}}, format="json").status_code == 400
    denied = stranger.post("/api/v1/jobs", {"kind": "jobs.sleep"}, format="json")
    assert denied.status_code == 403
    assert "Job Run" in denied.json()["detail"]


def test_strangers_see_no_job_and_owners_their_own(admin: APIClient) -> None:
    client, user = client_of("bob")
    mine = enqueue("jobs.sleep", {"seconds": 1}, actor=actor_of_user(user))
    other = enqueue("jobs.sleep", {"seconds": 1}, actor=SYSTEM)
    assert [row["id"] for row in client.get("/api/v1/jobs").json()] == [mine.id]
    assert client.get(f"/api/v1/jobs/{other.id}").status_code == 404
    assert client.post(f"/api/v1/jobs/{other.id}/cancel").status_code == 404
    assert client.post(f"/api/v1/jobs/{mine.id}/cancel").status_code == 202
    assert client.get("/api/v1/workers").status_code == 403
    assert client.get("/api/v1/schedules").status_code == 403
    assert client.get("/api/v1/job-kinds").status_code == 403
    assert Job.objects.get(pk=other.id).state == "queued"


def test_schedules_and_capacity_can_be_changed(admin: APIClient) -> None:
    cron.declare_rows()
    changed = admin.patch("/api/v1/schedules/jobs.expire", {"cron": "0 0 4 * * *"}, format="json")
    assert changed.json()["cron"] == "0 0 4 * * *"
    assert admin.patch("/api/v1/schedules/jobs.expire", {"cron": "x"}, format="json").status_code == 400
    worker = Worker.objects.create(host="h", pid=1, capacity={"slots": 4})
    changed = admin.patch(f"/api/v1/workers/{worker.pk}", {"capacity": {"gc": 0}}, format="json")
    assert changed.json()["capacity"] == {"slots": 4, "gc": 0}
    assert {row["name"] for row in admin.get("/api/v1/job-kinds").json()} >= {"jobs.sleep", "events.compact"}


def test_compaction_runs_as_a_job(admin: APIClient) -> None:
    made = admin.post("/api/v1/jobs", {"kind": "events.compact", "payload": {"days": 1}}, format="json").json()
    work()
    assert admin.get(f"/api/v1/jobs/{made['id']}").json()["result"] == {"removed": 0}
