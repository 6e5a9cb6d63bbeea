"""Rolling update: bring slots to the service's current template, a few at a time, and watch what comes of it.

SwarmKit (manager/orchestrator/update/updater.go), made level-triggered: nothing is remembered between rounds but the status in
the service row and the tasks themselves.

- A slot is *busy* from the creation of its first task of this update until that task ran (or failed) and `delay` has passed.
- stop-first: the old task is shut down in the same transaction that makes the new one, which is raised when the old has stopped.
  start-first: the old one is shut down once the new one runs; if the new one never runs the old one goes on serving.
- A slot *failed* when its first task of this update ended before it ran, or within `monitor` of running, or did not run within
  `progress_deadline` (ours; SwarmKit waits without limit). Failed slots / slots outdated at the start > `max_failure_ratio`
  trips.
- A tripped update pauses, or rolls back by the rollback config; a tripped rollback always pauses. Paused stays paused until the
  service is written again, which raises its generation.
- After the last slot the update goes on watching for one `monitor` period, then it is completed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agent.protocol.spec import FailureAction, UpdateConfig, UpdateOrder
from agent.protocol.states import TaskState
from nodes.orchestrator.desk import Desk, Slot
from nodes.snapshot import ServiceView, TaskView, UpdateState, UpdateStatus


@dataclass(frozen=True, slots=True)
class SlotView:
    """One updatable slot: its tasks that count now (`held`) and all it has, oldest first."""

    slot: Slot
    held: tuple[TaskView, ...]
    tasks: tuple[TaskView, ...]

    def outdated(self, template: str) -> tuple[TaskView, ...]:
        return tuple(task for task in self.held if task.template != template)

    def current(self, template: str) -> tuple[TaskView, ...]:
        return tuple(task for task in self.held if task.template == template and task.live)


def update(desk: Desk, service: ServiceView, slots: list[SlotView]) -> None:
    """One round of the service's update. `slots` are those that stay (scale-down already happened)."""
    template = service.template
    outdated = [slot for slot in slots if not slot.current(template) and slot.outdated(template)]
    doubled = [slot for slot in slots if slot.current(template) and len(slot.held) > 1]
    status = service.update
    if (outdated or doubled) and (status.generation != service.generation or not (status.state.running or status.state.paused)):
        service = _begin(desk, service, len(outdated) + len(doubled))
        status = service.update
    for slot in doubled:
        _finish_slot(desk, service, slot)  # also when paused: a new task that runs has replaced the old one
    if not status.state.running:
        return
    config = service.spec.rollback if status.state.rollback else service.spec.update
    if _tripped(desk, service, config, slots):
        return
    busy = sum(_busy(desk, service, config, slot) for slot in slots)
    free = len(outdated) if config.parallelism == 0 else max(0, config.parallelism - busy)
    for slot in sorted(outdated, key=_worst_first)[:free]:
        _replace(desk, service, config, slot)
    if not outdated and not doubled and not busy:
        _complete(desk, service, config, slots)


def _begin(desk: Desk, service: ServiceView, total: int) -> ServiceView:
    state = UpdateState.ROLLING_BACK if service.update.state is UpdateState.ROLLING_BACK else UpdateState.UPDATING
    message = service.update.message if state is UpdateState.ROLLING_BACK else "update in progress"
    return desk.set_update(service, UpdateStatus(state, service.generation, desk.now, 0.0, total, message))


def _first(service: ServiceView, slot: SlotView) -> TaskView | None:
    """The task the update made for the slot: its oldest one of this template since the update began."""
    return next(
        (task for task in slot.tasks if task.template == service.template and task.created >= service.update.started),
        None,
    )


def _failed(desk: Desk, config: UpdateConfig, task: TaskView) -> bool:
    if task.ended:
        # A task that we ourselves stopped (drain, scale) did not fail.
        ended_by_itself = task.observed is not TaskState.SHUTDOWN
        return ended_by_itself and (not task.running_at or task.observed_at - task.running_at <= config.monitor)
    if not task.running_at and task.live:
        desk.wake(task.created + config.progress_deadline)
        return desk.now >= task.created + config.progress_deadline
    return False


def _busy(desk: Desk, service: ServiceView, config: UpdateConfig, slot: SlotView) -> bool:
    task = _first(service, slot)
    if task is None:
        return False
    if not task.running_at and not task.ended and not _failed(desk, config, task):
        return task.live
    until = (task.running_at or task.observed_at) + config.delay
    desk.wake(until)
    return until > desk.now


def _tripped(desk: Desk, service: ServiceView, config: UpdateConfig, slots: list[SlotView]) -> bool:
    firsts = [task for slot in slots if (task := _first(service, slot)) is not None]
    failed = [task for task in firsts if _failed(desk, config, task)]
    # Slots whose old task ended meanwhile got the new template from the restart policy: they are part of the update too.
    total = max(service.update.total, len(firsts), 1)
    if config.failure_action is FailureAction.CONTINUE or len(failed) / total <= config.max_failure_ratio:
        return False
    what = f"{len(failed)} of {total} updated slots failed, first task {failed[0].id}"
    rolling_back = service.update.state.rollback
    if config.failure_action is FailureAction.ROLLBACK and not rolling_back and service.has_previous:
        desk.roll_back(service, f"update rolled back: {what}")
        return True
    state = UpdateState.ROLLBACK_PAUSED if rolling_back else UpdateState.PAUSED
    word = "rollback" if rolling_back else "update"
    desk.set_update(service, dataclasses.replace(service.update, state=state, message=f"{word} paused: {what}"))
    return True


def _finish_slot(desk: Desk, service: ServiceView, slot: SlotView) -> None:
    """A slot with two tasks: once the current one runs, the others go (start-first, or a slot doubled by a partition)."""
    current = [desk.tasks[task.id] for task in slot.current(service.template)]
    keep = max(current, key=lambda task: (task.observed is TaskState.RUNNING, task.created, task.id))
    if keep.observed is TaskState.RUNNING:
        for task in slot.held:
            if task.id != keep.id:
                desk.set_desired(task, TaskState.SHUTDOWN)


def _replace(desk: Desk, service: ServiceView, config: UpdateConfig, slot: SlotView) -> None:
    old = [task for task in slot.held if task.live]
    if config.order is UpdateOrder.START_FIRST and any(task.observed is TaskState.RUNNING for task in old):
        desk.create(service, slot.slot)
        return
    for task in old:
        desk.set_desired(task, TaskState.SHUTDOWN)
    desk.create(service, slot.slot, desired=TaskState.READY, start_after=desk.now)


def _worst_first(slot: SlotView) -> tuple[bool, Slot]:
    """Slots that serve nobody are updated first: it costs nothing and tells the most."""
    return (any(task.observed is TaskState.RUNNING for task in slot.held), slot.slot)


def _complete(desk: Desk, service: ServiceView, config: UpdateConfig, slots: list[SlotView]) -> None:
    last = max((task.running_at for slot in slots if (task := _first(service, slot)) is not None), default=0.0)
    # The workers of SwarmKit sleep `delay` after each slot; the watch must outlast it by a second.
    until = last + (config.monitor if config.delay < config.monitor else config.delay + 1)
    if last and desk.now < until:
        desk.wake(until)
        return
    state = UpdateState.ROLLED_BACK if service.update.state.rollback else UpdateState.COMPLETED
    message = "rollback completed" if state is UpdateState.ROLLED_BACK else "update completed"
    desk.set_update(service, dataclasses.replace(service.update, state=state, finished=desk.now, message=message))
