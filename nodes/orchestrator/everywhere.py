"""Global services: one task on every node that is ready, active and meets the constraints.

SwarmKit (manager/orchestrator/global/global.go): the node is the slot. A node that is down or drained has its task shut down, not
replaced elsewhere; a paused node keeps what it has and gets nothing new. A suspect or unknown node is left alone.
"""

from __future__ import annotations

from agent.protocol.states import Availability, NodeState, TaskState
from nodes.constraints import first_unmet
from nodes.orchestrator.desk import Desk, Slot
from nodes.orchestrator.restart import last_ended, raise_ready, replace_task, should_restart
from nodes.orchestrator.update import SlotView, update
from nodes.snapshot import NodeView, ServiceView, TaskView


def reconcile_global(desk: Desk, service: ServiceView) -> None:
    slots: list[SlotView] = []
    by_slot = desk.slots_of(service)
    for node in desk.nodes.values():
        slot = (0, node.id)
        tasks = by_slot.get(slot, [])
        view = _reconcile_node(desk, service, node, slot, tasks)
        if view is not None:
            slots.append(view)
    for slot, tasks in by_slot.items():
        if slot[1] not in desk.nodes:
            _stop(desk, tasks, TaskState.REMOVE)
    update(desk, service, slots)
    for tasks in desk.slots_of(service).values():
        raise_ready(desk, service, tasks)


def _reconcile_node(desk: Desk, service: ServiceView, node: NodeView, slot: Slot, tasks: list[TaskView]) -> SlotView | None:
    if node.gone or node.availability is Availability.DRAIN:
        _stop(desk, tasks, TaskState.SHUTDOWN)
        return None
    if not _eligible(service, node):
        _stop(desk, tasks, TaskState.REMOVE)
        return None
    for task in tasks:
        if task.live and task.ended:
            replace_task(desk, service, slot, task)
    tasks = desk.in_slot(service, slot)
    live = tuple(task for task in tasks if task.live)
    if live:
        return SlotView(slot, live, tuple(tasks))
    if tasks and _gave_up(desk, service, slot, tasks[-1]):
        return SlotView(slot, (tasks[-1],), tuple(tasks))
    if node.state is NodeState.READY and node.accepts:
        desk.create(service, slot, restart_of=last_ended(desk, service, slot))
    return None


def _gave_up(desk: Desk, service: ServiceView, slot: Slot, task: TaskView) -> bool:
    """The newest task ended by itself and the policy makes no other. One that we stopped (drain, node down) comes back."""
    return task.ended and task.observed in _BY_ITSELF and not should_restart(desk, service, slot, task)


_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


def _eligible(service: ServiceView, node: NodeView) -> bool:
    return (
        node.approved
        and node.collection.startswith(service.root)
        and first_unmet(service.spec.placement.constraints, node) is None
    )


def _stop(desk: Desk, tasks: list[TaskView], desired: TaskState) -> None:
    for task in tasks:
        desk.set_desired(task, desired)
