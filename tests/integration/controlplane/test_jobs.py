"""Claims, fences, capacity, cancel, retry and schedules, on the database the suite runs on."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.api.actor import SYSTEM
from controlplane.jobs import actions, cron, enqueue, sweep
from controlplane.jobs.claim import Claim, claim_next, end, release, renew, take_back
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.declare import discover
from controlplane.jobs.keeper import default_capacity
from controlplane.jobs.models import Attempt, Job, JobState, LogChunk, ScheduleRow, Worker
from controlplane.jobs.run import run
from controlplane.jobs.stops import Cancelled, Fenced

pytestmark = pytest.mark.django_db(transaction=True)
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def _guest(settings: Any) -> Iterator[None]:
    settings.GUESTS = ["tests.integration.controlplane.effects"]
    discover()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE test_effects (job varchar(25), step varchar(20))")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE test_effects")


@pytest.fixture
def worker() -> Worker:
    return new_worker()


def new_worker(slots: int = 4, **capacity: int) -> Worker:
    return Worker.objects.create(host="h", pid=1, capacity={**default_capacity(slots), **capacity})


def claimed(worker: Worker) -> Claim:
    claim = claim_next(worker.pk)
    assert claim is not None
    return claim


def expire(job_id: str) -> Job:
    Job.objects.filter(pk=job_id).update(lease_until=PAST)
    return Job.objects.get(pk=job_id)


def run_all(worker: Worker) -> None:
    while (claim := claim_next(worker.pk)) is not None:
        run(JobContext(claim, Signals()))


def test_a_job_runs_and_leaves_progress_log_result_and_attempt(worker: Worker) -> None:
    job = enqueue("test.effects", {"steps": 3, "pause": 0}, actor=SYSTEM)
    run_all(worker)
    job.refresh_from_db()
    assert (job.state, job.result, job.done, job.total) == ("done", {"steps": 3}, 3, 3)
    assert "".join(job.log.values_list("text", flat=True)) == "step 0\nstep 1\nstep 2\n"
    assert list(job.attempts.values_list("number", "outcome")) == [(1, "done")]


def test_a_rolled_back_transaction_leaves_no_job() -> None:
    with transaction.atomic():
        enqueue("jobs.fail", actor=SYSTEM)
        transaction.set_rollback(True)
    assert not Job.objects.exists()


def test_unknown_kinds_and_payloads_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no kind of job"):
        enqueue("no.such", actor=SYSTEM)
    with pytest.raises(InvalidInput, match="payload"):
        enqueue("test.effects", {"step": 3}, actor=SYSTEM)


def test_the_larger_priority_runs_first(worker: Worker) -> None:
    low = enqueue("jobs.fail", actor=SYSTEM, priority=1)
    high = enqueue("jobs.fail", actor=SYSTEM, priority=9000)
    assert [claimed(worker).job_id, claimed(worker).job_id] == [high.id, low.id]


def test_one_of_many_claimers_gets_a_job() -> None:
    workers = [new_worker() for _ in range(6)]
    for _ in range(20):
        enqueue("test.effects", {"steps": 1}, actor=SYSTEM)
    got: list[str] = []
    start = threading.Barrier(6)

    def take(worker: Worker) -> None:
        start.wait()
        try:
            while (claim := claim_next(worker.pk)) is not None:
                got.append(claim.job_id)
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == len(set(got)) == 20
    assert Attempt.objects.count() == 20


def test_what_does_not_fit_is_skipped(worker: Worker) -> None:
    first = enqueue("test.scarce", actor=SYSTEM, priority=5001)
    enqueue("test.scarce", actor=SYSTEM, priority=5000)  # the same priority in one millisecond has no order
    other = enqueue("test.effects", {"steps": 1}, actor=SYSTEM)
    assert claimed(worker).job_id == first.id
    assert claimed(worker).job_id == other.id
    assert claim_next(worker.pk) is None
    assert claim_next(new_worker(scarce=0).pk) is None
    assert claim_next(new_worker().pk) is not None


def test_slots_bound_a_worker() -> None:
    for _ in range(3):
        enqueue("jobs.fail", actor=SYSTEM)
    worker = new_worker(slots=2)
    claimed(worker)
    claimed(worker)
    assert claim_next(worker.pk) is None


def test_a_single_kind_runs_once_in_the_cluster(worker: Worker) -> None:
    enqueue("test.single", actor=SYSTEM)
    enqueue("test.single", actor=SYSTEM)
    claim = claimed(worker)
    assert claim_next(new_worker().pk) is None
    end(claim, JobState.DONE)
    assert claim_next(new_worker().pk) is not None


def test_a_dedup_key_joins_queued_jobs_only(worker: Worker) -> None:
    first = enqueue("jobs.fail", actor=SYSTEM, dedup_key="k")
    assert enqueue("jobs.fail", actor=SYSTEM, dedup_key="k").id == first.id
    claimed(worker)
    second = enqueue("jobs.fail", actor=SYSTEM, dedup_key="k")
    assert second.id != first.id
    # the first goes back to the queue beside the second: it must not break on the key
    assert take_back(expire(first.id))
    assert Job.objects.get(pk=first.id).state in {"queued", "lost"}


def test_a_lease_that_ran_out_is_taken_back_and_fences_the_old_owner(worker: Worker) -> None:
    job = enqueue("test.effects", {"steps": 2}, actor=SYSTEM)
    old = JobContext(claimed(worker), Signals())
    with old.once("step-0"):
        pass
    old.log("written while the job was ours")
    old.flush()
    expire(job.id)
    sweep.sweep()
    new = JobContext(claimed(new_worker()), Signals())
    assert new.claim.fence == old.claim.fence + 1
    assert new.attempt == 2
    old.log("written too late")
    for write in (old.flush, lambda: old.progress(1, 1), lambda: renew(old.claim), lambda: end(old.claim, JobState.DONE)):
        with pytest.raises(Fenced):
            write()
    with pytest.raises(Fenced), old.fenced():
        pytest.fail("the fence let a stale owner in")
    with new.once("step-0") as first:
        assert not first
    with new.once("step-1") as first:
        assert first
    assert LogChunk.objects.count() == 1
    assert list(Attempt.objects.values_list("outcome", flat=True)) == ["lost", ""]


def test_an_effect_that_fails_is_no_step(worker: Worker) -> None:
    enqueue("test.effects", {"steps": 1}, actor=SYSTEM)
    ctx = JobContext(claimed(worker), Signals())
    with pytest.raises(RuntimeError), ctx.once("a"):
        raise RuntimeError
    with ctx.once("a") as first:
        assert first


def test_spent_attempts_make_a_lost_job(worker: Worker) -> None:
    job = enqueue("test.scarce", actor=SYSTEM)
    claimed(worker)
    assert take_back(expire(job.id))
    assert not take_back(expire(job.id))
    assert Job.objects.get().state == "lost"


def test_failures_are_tried_again_after_a_pause(worker: Worker) -> None:
    job = enqueue("test.flaky", {"good_at": 3}, actor=SYSTEM)
    for _ in range(3):
        run_all(worker)
        Job.objects.filter(pk=job.pk).update(run_after=PAST)
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("done", 3)
    assert list(job.attempts.values_list("outcome", flat=True)) == ["error", "error", "done"]


def test_the_last_failure_ends_the_job_with_its_traceback(worker: Worker) -> None:
    job = enqueue("jobs.fail", actor=SYSTEM)
    run_all(worker)
    job.refresh_from_db()
    assert (job.state, job.error) == ("error", "RuntimeError: this job fails on purpose")
    assert "Traceback" in job.log.get().text


def test_a_leaving_worker_gives_the_job_back_without_an_attempt(worker: Worker) -> None:
    job = enqueue("test.effects", {"steps": 5}, actor=SYSTEM)
    signals = Signals()
    signals.raise_one(signals.leaving)
    run(JobContext(claimed(worker), signals))
    job.refresh_from_db()
    assert (job.state, job.attempt, job.fence) == ("queued", 0, 1)
    release_claim = claimed(worker)
    release(release_claim)
    with pytest.raises(Fenced):
        release(release_claim)


def test_cancel_ends_a_queued_job_and_asks_a_running_one(worker: Worker) -> None:
    queued = enqueue("jobs.fail", actor=SYSTEM)
    assert actions.cancel(SYSTEM, queued).state == "cancelled"
    with pytest.raises(Conflict):
        actions.cancel(SYSTEM, queued)
    running = enqueue("test.effects", {"steps": 5}, actor=SYSTEM)
    ctx = JobContext(claimed(worker), Signals())
    actions.cancel(SYSTEM, running)
    assert renew(ctx.claim)
    ctx.signals.raise_one(ctx.signals.cancelled)
    with pytest.raises(Cancelled):
        ctx.check()
    run(ctx)
    running.refresh_from_db()
    assert running.state == "cancelled"


def test_retry_is_a_new_job(worker: Worker) -> None:
    job = enqueue("jobs.fail", actor=SYSTEM)
    with pytest.raises(Conflict):
        actions.retry(SYSTEM, job)
    run_all(worker)
    job.refresh_from_db()
    again = actions.retry(SYSTEM, job)
    assert (again.retry_of, again.state) == (job.id, "queued")


def test_two_sweepers_make_one_job_a_tick() -> None:
    cron.declare_rows()
    ScheduleRow.objects.filter(name="every-second").update(enabled=True)
    due = cron.database_now() - datetime.timedelta(seconds=3)
    for _ in range(5):
        Job.objects.all().delete()
        ScheduleRow.objects.filter(name="every-second").update(next_due=due)
        start = threading.Barrier(2)

        def fire(start: threading.Barrier = start) -> None:
            start.wait()
            try:
                cron.fire()
            finally:
                connection.close()

        threads = [threading.Thread(target=fire) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert Job.objects.filter(schedule="every-second").count() == 1


def test_an_operators_schedule_survives_a_new_start() -> None:
    cron.declare_rows()
    row = ScheduleRow.objects.get(name="jobs.expire")
    cron.change(SYSTEM, row, cron="0 0 5 * * *", enabled=False)
    cron.declare_rows()
    row.refresh_from_db()
    assert (row.cron, row.enabled, row.next_due.hour) == ("0 0 5 * * *", False, 5)


def test_one_worker_leads_until_its_lease_ends() -> None:
    one, two = new_worker().pk, new_worker().pk
    assert sweep.lead(one)
    assert sweep.lead(one)
    assert not sweep.lead(two)
    sweep.abdicate(one)
    assert sweep.lead(two)


def test_old_jobs_expire(worker: Worker) -> None:
    old = enqueue("jobs.fail", actor=SYSTEM)
    new = enqueue("jobs.fail", actor=SYSTEM)
    run_all(worker)
    Job.objects.filter(pk=old.pk).update(finished_at=PAST)
    expire_job = enqueue("jobs.expire", {"days": 1}, actor=SYSTEM)
    run_all(worker)
    assert set(Job.objects.values_list("pk", flat=True)) == {new.pk, expire_job.pk}
