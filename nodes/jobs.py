"""What runs in worker processes: the reconciler's loop and its housekeeping.

`LOOPS` are long-lived functions of a stop event, one thread each in every worker process. The reconciler's is single-flight by
the watch's lease (5 s): the process that holds it judges the nodes every second, and brings tasks to what services want whenever
something happened. "Something happened" is a new event row: every write records one, so a lost hint costs at most a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from controlplane.api.ids import new_id
from controlplane.events import hints
from controlplane.events.models import ChainHead
from controlplane.jobs import JobContext, Schedule, job
from controlplane.jobs.clock import database_now
from nodes import actions, topics
from nodes.orchestrator.liveness import PERIOD

log = structlog.get_logger(__name__)

EVERY = PERIOD / 2  # seconds between looks at the nodes
FULL_EVERY = 30.0  # seconds between rounds though nothing happened: what no event told
TIDY_EVERY = 60.0


class Reconciler:
    """One process's reconciler. `step` is a whole look; `run` repeats it until `stop` is set."""

    def __init__(self) -> None:
        self.holder = new_id()
        self.wake = threading.Event()
        self._seen = -1  # the event number of the last settled round
        self._due = 0.0  # unix seconds of the database's clock: a timer of the orchestrator
        self._full_at = 0.0
        self._tidy_at = 0.0
        # seconds to rest after a step: as long as it took, so that a storm of hints takes half a core at most
        self._rest = 0.0

    def step(self) -> bool:
        """Sweep and, when something happened or is due, reconcile. False when another process holds the watch."""
        if not actions.take_watch(self.holder):
            self._seen = -1
            return False
        actions.sweep()
        now = time.monotonic()
        head = ChainHead.objects.values_list("sequence", flat=True).filter(pk=1).first() or 0
        if head != self._seen or now >= self._full_at or self._timer_is_due():
            done = actions.reconcile_round()
            # Our own events count as seen only when nothing was left to do.
            self._seen = self._head() if done.settled and not done.changes else -1
            self._due = done.wake_at or 0.0
            self._full_at = now + FULL_EVERY
        if now >= self._tidy_at:
            actions.tidy()
            self._tidy_at = now + TIDY_EVERY
        return True

    def _head(self) -> int:
        return ChainHead.objects.values_list("sequence", flat=True).filter(pk=1).first() or 0

    def _timer_is_due(self) -> bool:
        return bool(self._due) and database_now().timestamp() >= self._due

    def run(self, stop: threading.Event) -> None:
        """Until `stop`: a look a second, at once when a hint comes. A database that is away is waited for."""
        ears = threading.Thread(target=self._listen, args=(stop,), name="nodes-reconciler-hints", daemon=True)
        ears.start()
        try:
            while not stop.is_set():
                self.wake.clear()
                began = time.monotonic()
                try:
                    self.step()
                except DatabaseError as error:
                    log.warning("reconciler_database_away", error=str(error))
                    connection.close()
                self._rest = min(time.monotonic() - began, EVERY)
                self._pause(stop)
        finally:
            self._leave()

    def _pause(self, stop: threading.Event) -> None:
        stop.wait(self._rest)
        deadline = time.monotonic() + EVERY - self._rest
        while not stop.is_set() and not self.wake.is_set() and (left := deadline - time.monotonic()) > 0:
            self.wake.wait(min(left, 0.25))

    def _leave(self) -> None:
        try:
            actions.leave_watch(self.holder)
        except DatabaseError as error:
            log.warning("reconciler_sign_off_failed", error=str(error))
        connection.close()

    def _listen(self, stop: threading.Event) -> None:
        async def listen() -> None:
            async for _ in hints.subscribe(topics.RECONCILE):
                self.wake.set()
                if stop.is_set():
                    return

        asyncio.run(listen())


def reconcile(stop: threading.Event) -> None:
    """The loop "nodes.reconcile"."""
    Reconciler().run(stop)


@job("nodes.sweep", operation="Node Update", max_attempts=1, quiet=True, single=True)
def sweep(ctx: JobContext) -> dict[str, int]:
    """Judge every node by its lease, now. The loop does it each second; the schedule is a net under it."""
    changed = actions.sweep()
    ctx.log(f"{changed} nodes changed their state.")
    return {"changed": changed}


@job("nodes.schedule", operation="Node Update", max_attempts=1, quiet=True, single=True)
def schedule(ctx: JobContext) -> dict[str, int]:
    """One round of orchestrator and scheduler, now."""
    done = actions.reconcile_round()
    ctx.log(f"{done.changes} changes.")
    return {"changes": done.changes}


@job("nodes.leases", operation="Node Update", max_attempts=1, quiet=True, single=True)
def leases(ctx: JobContext) -> dict[str, int]:
    """Give the images back that nothing uses any more, and lease what is missing."""
    done = actions.sync_leases()
    ctx.log(f"{done.leased} images leased, {done.released} released.")
    return {"leased": done.leased, "released": done.released}


SCHEDULES = [
    Schedule("nodes.leases", "15 * * * * *"),
    Schedule("nodes.sweep", "30 * * * * *"),
    Schedule("nodes.schedule", "45 * * * * *"),
]
LOOPS: tuple[Callable[[threading.Event], None], ...] = (reconcile,)
