"""The jobs of blob stores as a worker runs them: result, log, refusals, cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.jobs import enqueue
from controlplane.jobs.claim import claim_next
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.keeper import default_capacity
from controlplane.jobs.models import Job, JobState, LogChunk, Worker
from controlplane.jobs.run import run
from registry.actions.repositories import ensure_repository
from registry.storage import open_store
from registry.storage.filesystem import FilesystemStore
from tests.integration.registry import world

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "admin/a"


@pytest.fixture(autouse=True)
def _stores(tmp_path: Path, settings: Any) -> None:
    settings.BLOB_STORE, settings.BLOB_STORE_ALSO = str(tmp_path / "new"), ""


def work(kind: str, payload: dict[str, Any] | None = None, signals: Signals | None = None) -> tuple[Job, str]:
    """Run one job to its end; its row and log."""
    worker = Worker.objects.create(host="here", pid=1, capacity=default_capacity(4))
    job = enqueue(kind, payload, actor=SYSTEM, priority=10_000)  # before those that follow what tests push
    claim = claim_next(worker.pk)
    assert claim is not None
    assert claim.job_id == job.pk
    run(JobContext(claim, signals or Signals()))
    worker.delete()
    job.refresh_from_db()
    return job, "".join(LogChunk.objects.filter(job_id=job.pk).order_by("seq").values_list("text", flat=True))


def test_collection_dry_and_in_a_time_box() -> None:
    world.push_blob(open_store(), NAME, b"young")
    for payload in ({"dry_run": True}, {"minutes": 5}, {}):
        job, log = work("registry.gc", payload)
        assert (job.state, job.result["blobs"], job.result["stopped"]) == (JobState.DONE, 0, False)
        assert log.startswith("Dry run: 0 blobs" if "dry_run" in payload else "Collected 0 blobs")


def test_scrub_names_what_is_spoilt(tmp_path: Path) -> None:
    digest = world.push_blob(open_store(), NAME, b"spoilt")
    (tmp_path / "new" / "blobs" / "sha256" / digest.hex[:2] / digest.hex).write_bytes(b"SPOILT")
    job, log = work("registry.scrub", {"days": 0})
    assert (job.state, job.result["bad"]) == (JobState.DONE, [str(digest)])
    assert f"{digest} was spoilt." in log
    assert work("registry.scrub")[0].result["blobs"] == 0, "all were verified within 30 days"


def test_reconcile_reports_and_repairs_when_told() -> None:
    store = open_store()
    digest = world.push_blob(store, NAME, b"in the trash")
    store.trash(digest)
    job, log = work("registry.reconcile")
    assert job.result["missing"]["digests"] == [str(digest)]
    assert "Nothing was changed" in log
    assert work("registry.reconcile", {"repair": True})[0].result["repaired"] == 1
    assert store.size(digest) == len(b"in the trash")


def test_migrate_says_when_the_old_store_can_go(tmp_path: Path, settings: Any) -> None:
    job, _ = work("registry.migrate")
    assert job.state == JobState.ERROR
    assert "WHARF_BLOB_STORE_ALSO" in job.error

    old = FilesystemStore(str(tmp_path / "old"))
    digest = world.push_blob(old, NAME, b"moves")
    settings.BLOB_STORE_ALSO = str(tmp_path / "old")
    job, log = work("registry.migrate", {"megabytes": 100})
    assert (job.state, job.result["copied"], job.result["complete"]) == (JobState.DONE, 1, True)
    assert "take WHARF_BLOB_STORE_ALSO away" in log
    settings.BLOB_STORE_ALSO = ""
    assert open_store().size(digest) == len(b"moves")


@pytest.mark.parametrize("kind", ["registry.gc", "registry.scrub", "registry.reconcile"])
def test_a_cancel_stops_it_between_two_steps(kind: str) -> None:
    """The signal comes with the first step; what was done until then stays done."""
    world.push_blob(open_store(), NAME, b"x")
    signals = Signals()
    real = JobContext.progress

    def progress(self: JobContext, done: int, total: int = 0, text: str = "") -> None:
        signals.raise_one(signals.cancelled)
        real(self, done, total, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobContext, "progress", progress)
        job, _ = work(kind, {"days": 0} if kind == "registry.scrub" else None, signals)
    assert job.state == JobState.CANCELLED
    assert world.lost_blobs(open_store()) == []


@pytest.mark.parametrize("kind", ["registry.scrub", "registry.reconcile", "registry.migrate"])
def test_only_administrators_start_them(people: Any, api: Callable[..., Any], kind: str) -> None:
    ensure_repository(SYSTEM, NAME)
    assert api(people.alice).post("/api/v1/jobs", {"kind": kind}).status_code == 403
    assert api(people.admin).post("/api/v1/jobs", {"kind": kind}).status_code == 201
