"""The desk a reconciler works at: the snapshot with indexes, the changes so far, and the earliest time to look again.

Changes take effect on the desk at once, so that a later reconciler of the same round sees what an earlier one decided: a task
that the enforcer rejected is already ended when the restart policy looks at it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

from agent.protocol.errors import Internal
from agent.protocol.spec import ServiceMode
from agent.protocol.states import TaskState
from nodes.orchestrator.changes import (
    Change,
    CreateTask,
    Decision,
    DeleteService,
    DeleteTask,
    RollBack,
    SetDesired,
    SetObserved,
    SetUpdate,
)
from nodes.snapshot import NodeView, Restart, ServiceView, Snapshot, TaskView, UpdateStatus

Slot = tuple[int, str]  # (slot, "") of a replicated service, (0, node id) of a global one


class Desk:
    def __init__(self, snapshot: Snapshot) -> None:
        self.now = snapshot.now
        self.nodes: dict[str, NodeView] = {node.id: node for node in sorted(snapshot.nodes, key=lambda node: node.id)}
        self.services: dict[str, ServiceView] = {item.id: item for item in sorted(snapshot.services, key=lambda item: item.id)}
        self.tasks: dict[str, TaskView] = {}
        self._slots: dict[str, dict[Slot, dict[str, None]]] = defaultdict(dict)
        for task in sorted(snapshot.tasks, key=lambda task: (task.created, task.id)):
            self._add(task)
        self._restarts: dict[tuple[str, int, str], list[Restart]] = defaultdict(list)
        for restart in snapshot.restarts:
            service = self.services.get(restart.service_id)
            if service is not None:
                self._restarts[(restart.service_id, *_slot_of(service, restart.slot, restart.node_id))].append(restart)
        self._changes: list[Change] = []
        self._wake_at: float | None = None
        self._made = 0

    def decision(self) -> Decision:
        return Decision(tuple(self._changes), self._wake_at)

    def _add(self, task: TaskView) -> None:
        service = self.services.get(task.service_id)
        if service is None:
            return
        self.tasks[task.id] = task
        slot = _slot_of(service, task.slot, task.node_id)
        self._slots[service.id].setdefault(slot, {})[task.id] = None

    def slots_of(self, service: ServiceView) -> dict[Slot, list[TaskView]]:
        """Every slot that has a task of any state, tasks oldest first."""
        return {slot: [self.tasks[item] for item in tasks] for slot, tasks in sorted(self._slots[service.id].items()) if tasks}

    def in_slot(self, service: ServiceView, slot: Slot) -> list[TaskView]:
        """Tasks of one slot, oldest first."""
        return [self.tasks[item] for item in self._slots[service.id].get(slot, {})]

    def restarts_of(self, service: ServiceView, slot: Slot) -> list[Restart]:
        return self._restarts.get((service.id, *slot), [])

    def node_gone(self, task: TaskView) -> bool:
        """Nobody will report on the task: its node is down, removed or unknown to us. False for a task without a node."""
        if not task.node_id:
            return False
        node = self.nodes.get(task.node_id)
        return node is None or node.gone

    def stopping(self, task: TaskView) -> bool:
        """It is no longer wanted, yet may still run somewhere that will tell us when it has stopped."""
        return not task.live and task.bound and not task.ended and not self.node_gone(task)

    def wake(self, at: float) -> None:
        """Ask to be called again at `at` (only the future counts)."""
        if at > self.now and (self._wake_at is None or at < self._wake_at):
            self._wake_at = at

    def create(
        self,
        service: ServiceView,
        slot: Slot,
        *,
        desired: TaskState = TaskState.RUNNING,
        start_after: float = 0.0,
        restart_of: str = "",
    ) -> None:
        number, node_id = slot
        self._changes.append(CreateTask(service.id, number, node_id, desired, start_after, restart_of))
        self._made += 1
        task = TaskView(
            id=f"~{self._made}",
            service_id=service.id,
            slot=number,
            node_id=node_id,
            desired=desired,
            generation=service.generation,
            template=service.template,
            created=self.now,
            observed_at=self.now,
            start_after=start_after,
        )
        self._add(task)

    def set_desired(self, task: TaskView, desired: TaskState) -> None:
        task = self.tasks[task.id]
        if task.desired >= desired:
            return
        if task.id.startswith("~"):
            raise Internal("a task made in this round is not changed in it")
        self._changes.append(SetDesired(task.id, desired))
        self.tasks[task.id] = dataclasses.replace(task, desired=desired)

    def set_observed(self, task: TaskView, observed: TaskState, message: str) -> None:
        task = self.tasks[task.id]
        if task.observed >= observed:
            return
        self._changes.append(SetObserved(task.id, observed, message))
        self.tasks[task.id] = dataclasses.replace(task, observed=observed, observed_at=self.now)

    def delete(self, task: TaskView) -> None:
        self._changes.append(DeleteTask(task.id))
        del self.tasks[task.id]
        del self._slots[task.service_id][_slot_of(self.services[task.service_id], task.slot, task.node_id)][task.id]

    def set_update(self, service: ServiceView, status: UpdateStatus) -> ServiceView:
        if service.update == status:
            return service
        self._changes.append(SetUpdate(service.id, status))
        self.services[service.id] = dataclasses.replace(service, update=status)
        return self.services[service.id]

    def roll_back(self, service: ServiceView, message: str) -> None:
        self._changes.append(RollBack(service.id, message))

    def delete_service(self, service: ServiceView) -> None:
        self._changes.append(DeleteService(service.id))

    def each_task(self) -> Iterator[TaskView]:
        """Every task as it stands, safe against changes on the way."""
        return iter(list(self.tasks.values()))


def _slot_of(service: ServiceView, slot: int, node_id: str) -> Slot:
    return (0, node_id) if service.spec.mode is ServiceMode.GLOBAL else (slot, "")
