"""Constraint enforcer: a node that stopped matching rejects what no longer belongs on it.

SwarmKit (manager/orchestrator/constraintenforcer): sets *observed* REJECTED, on active nodes only, judged by the service's
current constraints and the node's current resources; setting desired state would bypass the restart logic. Oldest tasks keep
their room.
"""

from __future__ import annotations

from collections import defaultdict

from agent.protocol.states import Availability, NodeState, TaskState
from nodes.constraints import first_unmet
from nodes.orchestrator.desk import Desk
from nodes.snapshot import NodeView, TaskView


def enforce(desk: Desk) -> None:
    by_node: dict[str, list[TaskView]] = defaultdict(list)
    for task in desk.each_task():
        if task.occupies:
            by_node[task.node_id].append(task)
    for node_id, tasks in by_node.items():
        node = desk.nodes.get(node_id)
        if node is not None and node.state is NodeState.READY and node.availability is Availability.ACTIVE:
            _enforce_node(desk, node, sorted(tasks, key=lambda task: (task.created, task.id)))


def _enforce_node(desk: Desk, node: NodeView, tasks: list[TaskView]) -> None:
    nano_cpus, memory = node.nano_cpus, node.memory
    for task in tasks:
        reason = _refusal(desk, node, task)
        if not reason and (task.nano_cpus > nano_cpus or task.memory > memory):
            reason = "the node no longer has the resources that are reserved on it"
        if reason and task.live:
            desk.set_observed(task, TaskState.REJECTED, reason)
        else:
            nano_cpus -= task.nano_cpus
            memory -= task.memory


def _refusal(desk: Desk, node: NodeView, task: TaskView) -> str:
    service = desk.services[task.service_id]
    unmet = first_unmet(service.spec.placement.constraints, node)
    if unmet is not None:
        return f"the node no longer meets constraint {unmet}"
    if not node.collection.startswith(service.root):
        return f"the node is no longer below collection {service.root}"
    return ""
