"""`place`: bind pending tasks to nodes.

Pure and deterministic: the same snapshot gives the same plan, whatever the order of its tuples. The commit
(`nodes.actions.assign`) checks again under row locks, so a plan from an old snapshot can fail but never overfill a node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agent.protocol.states import NodeState, TaskState
from nodes.scheduler.filters import NodeLoad, load_refusal, static_refusal
from nodes.scheduler.plan import Assignment, Plan, Unplaced, count
from nodes.scheduler.spread import Branch
from nodes.snapshot import ServiceView, Snapshot, TaskView

FAILURE_WINDOW = 300.0


def place(snapshot: Snapshot) -> Plan:
    """Plan every task that has no node yet, oldest service group first; tasks that carry a node (global) are only checked."""
    planner = _Planner(snapshot)
    for service, tasks in _groups(snapshot):
        fixed = [task for task in tasks if task.node_id]
        for task in fixed:
            planner.check_fixed(service, task)
        free = [task for task in tasks if not task.node_id]
        if free:
            planner.place_group(service, free)
    return Plan(tuple(planner.assignments), tuple(planner.unplaced))


def _groups(snapshot: Snapshot) -> Iterator[tuple[ServiceView, list[TaskView]]]:
    """Pending tasks by (service, template): tasks of one group are alike, so one ranking serves them all."""
    services = {service.id: service for service in snapshot.services}
    waiting = [
        task
        for task in snapshot.tasks
        if task.observed in (TaskState.NEW, TaskState.PENDING) and task.live and task.service_id in services
    ]
    waiting.sort(key=lambda task: (not task.node_id, task.created, task.id))
    groups: dict[tuple[str, str, bool], list[TaskView]] = {}
    for task in waiting:
        groups.setdefault((task.service_id, task.template, bool(task.node_id)), []).append(task)
    for (service_id, _, _), tasks in groups.items():
        yield services[service_id], tasks


class _Planner:
    def __init__(self, snapshot: Snapshot) -> None:
        self.assignments: list[Assignment] = []
        self.unplaced: list[Unplaced] = []
        members = (node for node in snapshot.nodes if node.state is not NodeState.LEFT)
        self._loads = {node.id: NodeLoad(node) for node in sorted(members, key=lambda node: node.id)}
        for task in snapshot.tasks:
            if task.occupies and task.node_id in self._loads:
                self._loads[task.node_id].add(task)
        self._failures: dict[tuple[str, int, str], int] = defaultdict(int)
        for restart in snapshot.restarts:
            if restart.failed and restart.at > snapshot.now - FAILURE_WINDOW:
                self._failures[(restart.service_id, restart.generation, restart.node_id)] += 1

    def check_fixed(self, service: ServiceView, task: TaskView) -> None:
        """A global task: its node was chosen with it, the filters may still refuse."""
        load = self._loads.get(task.node_id)
        if load is None:
            self.unplaced.append(Unplaced(task.id, 1, {"no longer in the cluster": 1}))
            return
        reason = static_refusal(service, load.node) or load_refusal(service, task, load)
        if reason:
            self.unplaced.append(Unplaced(task.id, 1, {reason: 1}))
        else:
            self._assign(task, load)

    def place_group(self, service: ServiceView, tasks: list[TaskView]) -> None:
        refusals: dict[str, str] = {}
        candidates: list[NodeLoad] = []
        for load in self._loads.values():
            reason = static_refusal(service, load.node)
            if reason:
                refusals[load.node.id] = reason
            else:
                candidates.append(load)

        def failures(node_id: str) -> int:
            return self._failures[(service.id, service.generation, node_id)]

        tree = Branch(service.id, candidates, service.spec.placement.spread, failures)
        for task in tasks:
            self._place_one(service, task, tree, refusals)

    def _place_one(self, service: ServiceView, task: TaskView, tree: Branch, refusals: dict[str, str]) -> None:
        def fits(load: NodeLoad) -> bool:
            reason = load_refusal(service, task, load)
            if reason:
                refusals[load.node.id] = reason
            return not reason

        if tree.take(fits, lambda load: self._assign(task, load)) is None:
            self.unplaced.append(Unplaced(task.id, len(self._loads), count(refusals)))

    def _assign(self, task: TaskView, load: NodeLoad) -> None:
        load.add(task)
        self.assignments.append(Assignment(task.id, load.node.id))
