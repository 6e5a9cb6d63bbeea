"""Assigned tasks against running containers: level-triggered, one transition a step, durable.

Each task known here (assigned, or with a record left) has one runner that asks `decide` for the next act, carries it out,
persists what was reached and reports it; then it sleeps until something changes: the assignments, the container, or five seconds,
whichever comes first. A runner never gives up: an act that fails either moves the task to a terminal state or is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from agent.containers.containers import Containers
from agent.containers.wiring import SERVICE_LABEL
from agent.protocol import messages as m
from agent.protocol.errors import WharfError
from agent.protocol.spec import ContainerSpec
from agent.protocol.states import Health, TaskState
from agent.worker.assignments import Assignments
from agent.worker.decide import Act, View, decide
from agent.worker.records import TaskRecord, TaskRecords

log = logging.getLogger(__name__)

RECHECK = 5.0
RETRY = 1.0
PREPARE_FOR = 600.0  # seconds that a preparation which may succeed later (registry away, disk full) is tried


class Puller(Protocol):
    async def ensure(self, image: str, progress: Callable[[str], None]) -> str:
        """Have `image` (repository@digest of the cluster's registry) on the node; returns its image id."""


class Worker:
    """Owns the tasks of this node. `report` is called with each status worth telling; losing one is healed by `statuses()`."""

    def __init__(
        self, state: Path, containers: Containers, puller: Puller, *, boot_id: str, report: Callable[[m.TaskStatus], None]
    ) -> None:
        self.assignments = Assignments(state / "assignments.json")
        self._records = TaskRecords(state / "tasks")
        self._containers = containers
        self._puller = puller
        self._boot_id = boot_id
        self._report = report
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._struggling: dict[str, float] = {}  # task id -> monotonic time of the first of its failed preparations

    def statuses(self) -> tuple[m.TaskStatus, ...]:
        """Where every task stands: sent whole after each welcome."""
        return tuple(record.status for record in self._records)

    def images(self) -> set[str]:
        """References and ids of the images that the tasks of this node need."""
        assigned = {task.image for task in self.assignments.tasks.values()}
        return assigned | {record.image_id for record in self._records if record.image_id}

    def start(self) -> None:
        """Begin to enforce what was persisted, before any link is up."""
        self._containers.on_change(self._container_changed)
        self.reconcile()

    async def stop(self) -> None:
        """Stop enforcing; containers run on."""
        for runner in self._runners.values():
            runner.cancel()
        await asyncio.gather(*self._runners.values(), return_exceptions=True)

    def reconcile(self) -> None:
        """See that every task has a runner and look again at all of them. Call after the assignments changed."""
        known = set(self.assignments.tasks) | {record.status.task_id for record in self._records}
        for task_id in known:
            wake = self._wakes.setdefault(task_id, asyncio.Event())
            wake.set()
            if task_id not in self._runners:
                self._runners[task_id] = asyncio.create_task(self._run(task_id, wake), name=f"task-{task_id}")

    def _container_changed(self, task_id: str) -> None:
        wake = self._wakes.get(task_id)
        if wake:
            wake.set()

    async def _run(self, task_id: str, wake: asyncio.Event) -> None:
        told = ""
        try:
            while True:
                wake.clear()
                try:
                    if not await self._step(task_id):
                        return
                    continue_at_once = True
                    told = ""
                except (WharfError, OSError) as error:
                    text = error.detail if isinstance(error, WharfError) else str(error)
                    log.log(logging.DEBUG if text == told else logging.WARNING, "task %s: %s; trying again", task_id, text)
                    told = text
                    continue_at_once = False
                if continue_at_once and self._next(task_id) is not Act.NOTHING:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RECHECK if continue_at_once else RETRY):
                        await wake.wait()
        finally:
            self._runners.pop(task_id, None)
            self._wakes.pop(task_id, None)

    def _next(self, task_id: str) -> Act:
        assignment = self.assignments.tasks.get(task_id)
        if assignment is None and self.assignments.adopting:
            return Act.NOTHING
        record = self._records.get(task_id)
        observed = record.observed if record else TaskState.ASSIGNED
        return decide(assignment.desired if assignment else None, observed, self._view(record))

    def _view(self, record: TaskRecord | None) -> View | None:
        if record is None or not record.status.container_id:
            return None
        live = self._containers.live(record.status.container_id)
        return View(live.state, live.health) if live else None

    async def _step(self, task_id: str) -> bool:
        """Carry out one act; False when the task is forgotten."""
        act = self._next(task_id)
        assignment = self.assignments.tasks.get(task_id)
        record = self._records.get(task_id) or TaskRecord(m.TaskStatus(task_id, TaskState.ASSIGNED, time.time()), self._boot_id)
        if act is Act.FORGET:
            self._records.forget(task_id)
            self._struggling.pop(task_id, None)
            return False
        if act in (Act.ACCEPT, Act.PREPARE, Act.CREATE, Act.START):
            if assignment is None:
                raise AssertionError("decide() advances assigned tasks only")
            await self._advance(act, assignment, record)
        elif act in (Act.STOP, Act.REMOVE):
            await self._end(act, assignment, record)
        elif act is not Act.NOTHING:
            self._note(act, assignment, record)
        return True

    async def _advance(self, act: Act, assignment: m.TaskAssignment, record: TaskRecord) -> None:
        try:
            if act is Act.ACCEPT:
                self._reach(record, TaskState.ACCEPTED, message="accepted")
            elif act is Act.PREPARE:
                self._reach(record, TaskState.PREPARING, message=f"pulling {assignment.image}")
            elif act is Act.CREATE:
                await self._unless_unwanted(assignment.task_id, self._create(assignment, record))
            else:
                await self._start(record)
        except WharfError as error:
            latest = self._records.get(record.status.task_id) or record
            if act is Act.CREATE and error.retry and self._patient(assignment.task_id):
                self._report(replace(latest.status, message="waiting", error=error.detail, at=time.time()))
                raise
            ending = TaskState.REJECTED if latest.observed < TaskState.READY else TaskState.FAILED
            self._reach(latest, ending, message="failed to start", error=error.detail)

    def _patient(self, task_id: str) -> bool:
        """Whether to try again: a control plane that is away for a moment must not cost the task."""
        since = self._struggling.setdefault(task_id, time.monotonic())
        return time.monotonic() - since < PREPARE_FOR

    async def _unless_unwanted(self, task_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Carry out `work`, but drop it as soon as the task is no longer wanted: a long pull must not delay a stop."""
        job = asyncio.create_task(work)
        wake = self._wakes[task_id]
        try:
            while not job.done():
                waiter = asyncio.create_task(wake.wait())
                await asyncio.wait({job, waiter}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                wake.clear()
                assignment = self.assignments.tasks.get(task_id)
                if assignment is None or assignment.desired > TaskState.RUNNING:
                    break
        finally:
            if not job.done():
                job.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await job

    async def _create(self, assignment: m.TaskAssignment, record: TaskRecord) -> None:
        def progress(text: str) -> None:
            latest = self._records.get(assignment.task_id)
            if latest and latest.observed is TaskState.PREPARING:
                self._report(replace(latest.status, message=text, at=time.time()))

        image_id = await self._puller.ensure(assignment.image, progress)
        container_id = await self._containers.create(
            task_spec(assignment),
            image_id=image_id,
            name=task_name(assignment),
            task_id=assignment.task_id,
            lease=assignment.lease,
            tenant=assignment.tenant,
        )
        latest = self._records.get(assignment.task_id) or record
        self._reach(replace(latest, image_id=image_id), TaskState.READY, message="ready", container_id=container_id)

    async def _start(self, record: TaskRecord) -> None:
        self._reach(record, TaskState.STARTING, message="starting")
        await self._containers.start(record.status.container_id)

    async def _end(self, act: Act, assignment: m.TaskAssignment | None, record: TaskRecord) -> None:
        container_id = record.status.container_id
        if act is Act.REMOVE:
            await self._containers.remove(container_id, force=True)
            return
        live = self._containers.live(container_id)
        unhealthy = live is not None and live.health is Health.UNHEALTHY
        wanted = assignment is not None and assignment.desired <= TaskState.RUNNING
        await self._containers.stop(container_id)
        latest = self._records.get(record.status.task_id) or record
        if latest.observed.terminal:
            return
        if unhealthy and wanted:
            self._finish(latest, TaskState.FAILED, "unhealthy", "the health check failed; see the container's health log")
        else:
            self._finish(latest, TaskState.SHUTDOWN, "stopped")

    def _note(self, act: Act, assignment: m.TaskAssignment | None, record: TaskRecord) -> None:
        if act is Act.RUNNING:
            live = self._containers.live(record.status.container_id)
            if live is not None:
                self._reach(
                    record,
                    TaskState.RUNNING,
                    message="running",
                    pid=live.pid,
                    health=live.health.value if live.health is not Health.NONE else "",
                    addresses=live.addresses,
                    ports=live.ports,
                )
        elif act is Act.EXITED:
            self._exited(assignment, record)
        elif act is Act.LOST:
            self._reach(
                record, TaskState.FAILED, message="lost", error="the container is gone: removed by hand, or its files were lost"
            )
        elif act is Act.STOPPED:
            self._finish(record, TaskState.SHUTDOWN, "stopped")

    def _exited(self, assignment: m.TaskAssignment | None, record: TaskRecord) -> None:
        live = self._containers.live(record.status.container_id)
        code = live.exit_code if live else None
        if code == 0:
            self._finish(record, TaskState.COMPLETE, "finished")
            return
        if live and live.oom_killed:
            reason = "killed: it used more memory than its limit"
        elif code is None:
            reason = "ended while nobody watched: its exit code is unknown"
        else:
            reason = f"exited with code {code}"
        self._finish(record, TaskState.FAILED, "failed", reason)

    def _finish(self, record: TaskRecord, state: TaskState, message: str, error: str = "") -> None:
        live = self._containers.live(record.status.container_id) if record.status.container_id else None
        self._reach(
            record,
            state,
            message=message,
            error=error,
            exit_code=live.exit_code if live else None,
            oom_killed=bool(live and live.oom_killed),
        )

    def _reach(self, record: TaskRecord, state: TaskState, **changes: object) -> None:
        if state >= TaskState.READY:
            self._struggling.pop(record.status.task_id, None)
        advanced = record.advance(state, time.time(), **changes)
        self._records.put(advanced)
        self._report(advanced.status)


def task_name(assignment: m.TaskAssignment) -> str:
    """`service.slot.task` as Docker names the containers of tasks."""
    return f"{assignment.service_name}.{assignment.slot}.{assignment.task_id}"


def task_spec(assignment: m.TaskAssignment) -> ContainerSpec:
    """The container's spec, with the labels by which its task is found again."""
    labels = {
        **assignment.spec.labels,
        "com.docker.swarm.task.id": assignment.task_id,
        "com.docker.swarm.task.name": task_name(assignment),
        "com.docker.swarm.service.id": assignment.service_id,
        SERVICE_LABEL: assignment.service_name,
    }
    return replace(assignment.spec, labels=labels)
