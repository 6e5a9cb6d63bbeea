"""Replicated services: as many slots as replicas, each held by a wanted task or by one that ended and is not to be restarted.

SwarmKit (manager/orchestrator/replicated/services.go): too few slots, the lowest free numbers are filled; too many, the ones that
do not run go first, then those on the most loaded nodes, then the newest. Scale-down sets desired REMOVE: the rows go once the
nodes confirmed the stop.
"""

from __future__ import annotations

from collections import Counter

from agent.protocol.states import TaskState
from nodes.orchestrator.desk import Desk, Slot
from nodes.orchestrator.restart import last_ended, must_move, raise_ready, replace_task, should_restart
from nodes.orchestrator.update import SlotView, update
from nodes.snapshot import ServiceView, TaskView


def reconcile_replicated(desk: Desk, service: ServiceView) -> None:
    _scale_down(desk, service)
    _restart(desk, service)
    slots = _updatable(desk, service)
    update(desk, service, slots)
    _fill(desk, service, {slot.slot for slot in slots})
    for tasks in desk.slots_of(service).values():
        raise_ready(desk, service, tasks)


def _scale_down(desk: Desk, service: ServiceView) -> None:
    slots = _updatable(desk, service)
    excess = len(slots) - service.spec.replicas
    if excess <= 0:
        return
    for slot in _least_wanted(slots, excess):
        for task in desk.in_slot(service, slot):
            desk.set_desired(task, TaskState.REMOVE)


def _restart(desk: Desk, service: ServiceView) -> None:
    for slot, tasks in desk.slots_of(service).items():
        for task in tasks:
            if task.live and must_move(desk, task):
                replace_task(desk, service, slot, task)


def _updatable(desk: Desk, service: ServiceView) -> list[SlotView]:
    """Slots that count: with wanted tasks, or whose newest task ended for good. The rest is free to be filled anew."""
    result = []
    for slot, tasks in desk.slots_of(service).items():
        live = tuple(task for task in tasks if task.live)
        if live:
            result.append(SlotView(slot, live, tuple(tasks)))
        elif tasks[-1].desired < TaskState.REMOVE and _ended_for_good(desk, service, slot, tasks[-1]):
            result.append(SlotView(slot, (tasks[-1],), tuple(tasks)))
    return result


def _ended_for_good(desk: Desk, service: ServiceView, slot: Slot, task: TaskView) -> bool:
    # A rollback takes every slot to the old spec, also those whose last task gave up under the new one.
    if service.update.state.rollback and task.template != service.template:
        return False
    return not should_restart(desk, service, slot, task)


def _least_wanted(slots: list[SlotView], count: int) -> set[Slot]:
    """The slots to give up: those that serve nobody, then one by one from the node with the most tasks, newest number first."""
    per_node: Counter[str] = Counter()
    order: list[tuple[bool, bool, int, Slot]] = []
    for slot in sorted(slots, key=lambda slot: slot.slot):
        best = max(slot.held, key=lambda task: (task.observed is TaskState.RUNNING, not task.ended, task.created))
        per_node[best.node_id] += 1
        order.append((best.observed is not TaskState.RUNNING, best.ended or not best.bound, per_node[best.node_id], slot.slot))
    return {slot for *_, slot in sorted(order)[-count:]}


def _fill(desk: Desk, service: ServiceView, taken: set[Slot]) -> None:
    """Make tasks for missing slots. One whose last task had used up its attempts comes back here when they leave the window."""
    missing = service.spec.replicas - len(taken)
    number = 0
    while missing > 0:
        number += 1
        slot = (number, "")
        if slot not in taken:
            desk.create(service, slot, restart_of=last_ended(desk, service, slot))
            missing -= 1
