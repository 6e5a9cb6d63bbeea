"""The inside of a worker process: claims, runs, renews, sweeps. Celery only calls `work`.

Guests may have loops of their own (`<guest>.jobs.LOOPS`: functions of a stop event), a thread each; a failed one begins again.

Threads: the callers of `work` (Celery's pool, and one spare of our own that looks when the doorbell was not heard), `beat`, which
renews leases and reads cancel flags, and `sweep`. A database that is away stops none of them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from django.db.models.functions import Now

from controlplane import notify
from controlplane.api import guests
from controlplane.jobs import cron, sweep
from controlplane.jobs.claim import Claim, claim_next, renew
from controlplane.jobs.context import JobContext, Signals
from controlplane.jobs.declare import SLOTS, kinds
from controlplane.jobs.models import Job, JobState, Worker
from controlplane.jobs.run import run
from controlplane.jobs.stops import Fenced

log = structlog.get_logger(__name__)

TICK = 1.0  # seconds between looks at cancel flags and full logs
SEEN_EVERY = 5.0
LOOP_RETRY = 1.0  # seconds before a failed loop of a guest begins again


@dataclass
class Running:
    """A job in the works, and when (monotonic) its lease was last known to be ours."""

    ctx: JobContext
    renewed_at: float = field(default_factory=time.monotonic)


def guest_loops() -> list[Callable[[threading.Event], None]]:
    """The loops of every guest, in the guests' order."""
    return [loop for module in guests.modules("jobs") for loop in getattr(module, "LOOPS", ())]


class Keeper:
    """One worker process, which runs at most `slots` jobs at once."""

    def __init__(self, slots: int, *, capacity: dict[str, int] | None = None) -> None:
        self.slots = slots
        self.capacity = capacity
        self.worker_id = ""
        self.running: dict[str, Running] = {}
        self.lock = threading.Lock()
        self.leaving = threading.Event()
        self.stopped = threading.Event()
        self.wake_sweep = threading.Event()
        self.spare: threading.Thread | None = None
        self.threads: list[threading.Thread] = []
        self.seen_at = 0.0
        self.told_at = 0.0

    def start(self) -> None:
        """Registers the worker and starts its threads. Raises what the database raises."""
        capacity = self.capacity if self.capacity is not None else default_capacity(self.slots)
        self.worker_id = Worker.objects.create(host=socket.gethostname(), pid=os.getpid(), capacity=capacity).pk
        connection.close()
        for target in (self._beat, self._sweep):
            self._spawn(target, f"jobs{target.__name__}")
        for loop in guest_loops():
            self._spawn(partial(self._guest_loop, loop), f"jobs-{loop.__module__}.{loop.__name__}")

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _guest_loop(self, loop: Callable[[threading.Event], None]) -> None:
        """A loop of a guest for as long as the worker lives."""
        while not self.stopped.is_set():
            try:
                loop(self.stopped)
            except Exception:  # the thread's loop top: a guest's bug must not silently end its loop
                log.exception("guest_loop_failed", loop=loop.__name__)
                self.stopped.wait(LOOP_RETRY)
            finally:
                connection.close()

    def leave(self) -> None:
        """Take no more jobs and interrupt those that listen. Safe in a signal handler."""
        self.leaving.set()
        for running in list(self.running.values()):
            running.ctx.signals.raise_one(running.ctx.signals.leaving)

    def stop(self) -> None:
        """After the last job: end the threads and sign off."""
        self.leave()
        if self.spare is not None:
            self.spare.join()
        self.stopped.set()
        self.wake_sweep.set()
        for thread in self.threads:
            thread.join(10)
        try:
            sweep.abdicate(self.worker_id)
            Worker.objects.filter(pk=self.worker_id).delete()
        except DatabaseError as error:
            log.warning("worker_sign_off_failed", error=str(error))
        connection.close()

    def work(self) -> None:
        """Claim and run until nothing is left that this worker may take."""
        try:
            while not self.leaving.is_set():
                claim = claim_next(self.worker_id)
                if claim is None:
                    return
                self._run(claim)
        except DatabaseError as error:
            log.warning("worker_database_away", error=str(error))
        finally:
            connection.close()

    def _run(self, claim: Claim) -> None:
        ctx = JobContext(claim, Signals())
        with self.lock:
            self.running[claim.job_id] = Running(ctx)
        if self.leaving.is_set():
            ctx.signals.raise_one(ctx.signals.leaving)
        log.info("job_begins", job=claim.job_id, kind=claim.kind.name, attempt=claim.attempt, fence=claim.fence)
        try:
            run(ctx)
        finally:
            with self.lock:
                del self.running[claim.job_id]

    def _every(self, pause: Callable[[], float], step: Callable[[], None], name: str) -> None:
        while not self.stopped.is_set():
            try:
                step()
            except DatabaseError as error:
                log.warning(f"{name}_database_away", error=str(error))
                connection.close()
            pause()
        connection.close()

    # --- beat -------------------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._every(lambda: float(self.stopped.wait(TICK)), self._beat_once, "beat")

    def _beat_once(self) -> None:
        if time.monotonic() - self.told_at >= notify.WATCHDOG_EVERY:
            notify.send("WATCHDOG=1")  # before the database is asked: when that is away, a restart of ours helps nobody
            self.told_at = time.monotonic()
        with self.lock:
            running = list(self.running.values())
        for entry in running:
            self._look_after(entry)
        self._read_cancels(running)
        if time.monotonic() - self.seen_at >= SEEN_EVERY:
            if not Worker.objects.filter(pk=self.worker_id).update(seen_at=Now(), leaving=self.leaving.is_set()):
                self._register_again()
            self.seen_at = time.monotonic()

    def _register_again(self) -> None:
        """The row was forgotten while this process slept; its jobs were taken back meanwhile, the fence sees to that."""
        capacity = self.capacity if self.capacity is not None else default_capacity(self.slots)
        Worker.objects.create(pk=self.worker_id, host=socket.gethostname(), pid=os.getpid(), capacity=capacity)

    def _look_after(self, entry: Running) -> None:
        claim, signals = entry.ctx.claim, entry.ctx.signals
        before = time.monotonic()
        try:
            if before - entry.renewed_at >= claim.kind.lease / 3:
                renew(claim)
                entry.renewed_at = before
            if entry.ctx.flush_due:
                entry.ctx.flush()
        except Fenced:
            signals.raise_one(signals.fenced)
        except DatabaseError:
            if time.monotonic() - entry.renewed_at > claim.kind.lease:
                signals.raise_one(signals.fenced)  # by now another worker may have it
            raise

    def _read_cancels(self, running: list[Running]) -> None:
        if not running:
            return
        wanted = set(
            Job.objects.filter(pk__in=[entry.ctx.job_id for entry in running], cancel_requested=True).values_list("pk", flat=True)
        )
        for entry in running:
            if entry.ctx.job_id in wanted:
                entry.ctx.signals.raise_one(entry.ctx.signals.cancelled)

    # --- sweep ------------------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        pause = [0.0]

        def step() -> None:
            pause[0] = sweep.EVERY
            if sweep.lead(self.worker_id):
                if not declared:
                    cron.declare_rows()
                    declared.append(True)
                pause[0] = sweep.sweep()
            else:
                declared.clear()
            self._look()

        declared: list[bool] = []
        self._every(lambda: float(self.wake_sweep.wait(pause[0])), step, "sweep")

    def _look(self) -> None:
        """The doorbell may be broken: when jobs are due, a spare thread looks for them."""
        if self.leaving.is_set() or (self.spare is not None and self.spare.is_alive()):
            return
        if Job.objects.filter(state=JobState.QUEUED, run_after__lte=Now()).exists():
            self.spare = threading.Thread(target=self.work, name="jobs-spare")
            self.spare.start()


def default_capacity(slots: int) -> dict[str, int]:
    """Room for `slots` jobs, and for one of the hungriest kind of every capacity."""
    capacity: dict[str, int] = {}
    for kind in kinds().values():
        for key, amount in kind.capacity.items():
            capacity[key] = max(capacity.get(key, 0), amount)
    return {**capacity, SLOTS: slots}
