"""Filters: may this task run on this node? Each says why not, in words for the user.

SwarmKit's pipeline (manager/scheduler/filter.go): ready, resources, constraints, platform, host ports, max replicas; ours adds
approval and the collection below which the writer of the spec may schedule. The static ones depend on service and node only, the
others also on what is already placed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.protocol.states import Availability, NodeState
from nodes.constraints import architecture, first_unmet
from nodes.snapshot import NodeView, ServiceView, TaskView


@dataclass(slots=True)
class NodeLoad:
    """What is placed on a node so far; the scheduler adds to it as it plans."""

    node: NodeView
    nano_cpus: int = 0
    memory: int = 0
    tasks: int = 0
    ports: set[tuple[int, str]] = field(default_factory=set)
    by_service: dict[str, int] = field(default_factory=dict)

    def add(self, task: TaskView) -> None:
        self.nano_cpus += task.nano_cpus
        self.memory += task.memory
        self.ports.update(task.ports)
        if task.live:
            self.tasks += 1
            self.by_service[task.service_id] = self.by_service.get(task.service_id, 0) + 1


_PROBLEMS = {"disk_full": "disk is full", "state_unwritable": "state cannot be written"}

StaticFilter = Callable[[ServiceView, NodeView], str]
LoadFilter = Callable[[ServiceView, TaskView, NodeLoad], str]


def ready(service: ServiceView, node: NodeView) -> str:
    if not node.approved:
        return "awaiting approval"
    if node.state is not NodeState.READY:
        return f"not ready ({node.state.value})"
    return ""


def available(service: ServiceView, node: NodeView) -> str:
    if node.availability is Availability.ACTIVE:
        return ""
    if node.availability is Availability.DRAIN:
        return "drained"
    return ", ".join(_PROBLEMS.get(problem, problem) for problem in node.problems) or "paused"


def collection(service: ServiceView, node: NodeView) -> str:
    return "" if node.collection.startswith(service.root) else f"outside collection {service.root}"


def constraint(service: ServiceView, node: NodeView) -> str:
    unmet = first_unmet(service.spec.placement.constraints, node)
    return f"constraint {unmet}" if unmet else ""


def platform(service: ServiceView, node: NodeView) -> str:
    if not service.platforms:
        return ""
    for os, arch in service.platforms:
        if (not os or os == node.os) and (not arch or architecture(arch) == architecture(node.arch)):
            return ""
    return f"image not built for {node.os}/{node.arch}"


def resources(service: ServiceView, task: TaskView, load: NodeLoad) -> str:
    if task.memory and load.memory + task.memory > load.node.memory:
        return "insufficient memory"
    if task.nano_cpus and load.nano_cpus + task.nano_cpus > load.node.nano_cpus:
        return "insufficient CPU"
    return ""


def ports(service: ServiceView, task: TaskView, load: NodeLoad) -> str:
    for port, protocol in task.ports:
        if (port, protocol) in load.ports:
            return f"host port {port}/{protocol} in use"
    return ""


def max_replicas(service: ServiceView, task: TaskView, load: NodeLoad) -> str:
    limit = service.spec.placement.max_replicas_per_node
    return f"max {limit} replicas per node" if limit and load.by_service.get(service.id, 0) >= limit else ""


STATIC: tuple[StaticFilter, ...] = (ready, available, collection, constraint, platform)
LOAD: tuple[LoadFilter, ...] = (resources, ports, max_replicas)


def static_refusal(service: ServiceView, node: NodeView) -> str:
    """Why `node` can never take a task of `service` as things stand, or ""."""
    return next((reason for check in STATIC if (reason := check(service, node))), "")


def load_refusal(service: ServiceView, task: TaskView, load: NodeLoad) -> str:
    """Why the node has no room for `task`, or ""."""
    return next((reason for check in LOAD if (reason := check(service, task, load))), "")
