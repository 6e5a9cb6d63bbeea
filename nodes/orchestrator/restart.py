"""Restart policy: replace an ended task, or one whose node is lost, by a new one in its slot.

SwarmKit (manager/orchestrator/restart/restart.go): the replacement is made at once with desired READY, so that its image is
pulled meanwhile, and raised to RUNNING after the delay; no delay when the old task moves off a drained or lost node. Attempts
are counted per slot and spec generation, inside `window` when one is set. A replacement waits at most a minute for its
predecessor to stop, and not at all when that has ended or its node is gone.
"""

from __future__ import annotations

from agent.protocol.spec import RestartCondition
from agent.protocol.states import Availability, TaskState
from nodes.orchestrator.desk import Desk, Slot
from nodes.snapshot import ServiceView, TaskView

WAIT_FOR_OLD = 60.0


def should_restart(desk: Desk, service: ServiceView, slot: Slot, task: TaskView) -> bool:
    """May the policy replace `task`? Conditions first, then the attempts that were already made for this generation."""
    policy = service.spec.restart
    if policy.condition is RestartCondition.NONE:
        return False
    if policy.condition is RestartCondition.ON_FAILURE and task.observed is TaskState.COMPLETE:
        return False
    if not policy.max_attempts:
        return True
    made = [item for item in desk.restarts_of(service, slot) if item.generation == service.generation]
    if policy.window > 0:
        made = [item for item in made if item.at > desk.now - policy.window]
        if len(made) >= policy.max_attempts:
            desk.wake(sorted(item.at for item in made)[-policy.max_attempts] + policy.window)
    return len(made) < policy.max_attempts


def must_move(desk: Desk, task: TaskView) -> bool:
    """A wanted task that will not run on where it is: it ended, or its node is drained, down or gone."""
    if task.ended:
        return True
    if not task.node_id:
        return False
    node = desk.nodes.get(task.node_id)
    return node is None or node.gone or node.availability is Availability.DRAIN


def replace_task(desk: Desk, service: ServiceView, slot: Slot, task: TaskView) -> bool:
    """Stop wanting `task`; make its replacement if the policy allows. True when one was made."""
    allowed = should_restart(desk, service, slot, task)
    desk.set_desired(task, TaskState.SHUTDOWN)
    if allowed and not _has_successor(desk, service, slot, task):
        delay = service.spec.restart.delay if task.ended and not desk.node_gone(task) and not _drained(desk, task) else 0.0
        desk.create(service, slot, desired=TaskState.READY, start_after=desk.now + delay, restart_of=task.id)
        desk.wake(desk.now + delay)
        return True
    return False


def last_ended(desk: Desk, service: ServiceView, slot: Slot) -> str:
    """Id of the slot's newest task if that ended under the current generation: making another one counts as an attempt."""
    tasks = [task for task in desk.in_slot(service, slot) if task.desired is not TaskState.REMOVE]
    return tasks[-1].id if tasks and tasks[-1].ended and tasks[-1].generation == service.generation else ""


def raise_ready(desk: Desk, service: ServiceView, tasks: list[TaskView]) -> None:
    """Raise the replacements of one slot from READY to RUNNING once their delay is over and the old task has stopped."""
    for task in tasks:
        if task.desired is not TaskState.READY or task.id.startswith("~"):
            continue
        if task.start_after > desk.now:
            desk.wake(task.start_after)
            continue
        waits_until = task.created + WAIT_FOR_OLD
        if desk.now < waits_until and any(desk.stopping(desk.tasks[other.id]) for other in tasks if other.id in desk.tasks):
            desk.wake(waits_until)
            continue
        desk.set_desired(task, TaskState.RUNNING)


def _has_successor(desk: Desk, service: ServiceView, slot: Slot, task: TaskView) -> bool:
    """Another wanted task of the current template is in the slot already (an update made it). An outdated one is no successor."""
    return any(other.live and other.id != task.id and other.template == service.template for other in desk.in_slot(service, slot))


def _drained(desk: Desk, task: TaskView) -> bool:
    node = desk.nodes.get(task.node_id)
    return node is not None and node.availability is Availability.DRAIN
