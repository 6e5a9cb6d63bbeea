"""Commit a plan: node rows locked in id order, everything checked again under the locks, then the assignment (reliability.md
3.6).

Any process may have computed the plan from any snapshot: what no longer fits is left PENDING for the next round.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Case, CharField, F, Sum, Value, When

from agent.protocol.states import Availability, NodeState, TaskState
from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.jobs.clock import database_now
from nodes.actions.wake import assignments_after_commit
from nodes.models import HostPort, Node, Task
from nodes.scheduler import Assignment, Plan, Unplaced

log = structlog.get_logger(__name__)
BATCH = 300  # assignments a transaction


def assign(plan: Plan, *, deadline: float = math.inf) -> int:
    """Bind the plan's tasks to their nodes and store why the others wait; the number of tasks bound.

    No batch begins after `deadline` (monotonic seconds).
    """
    done = 0
    for start in range(0, len(plan.assignments), BATCH):
        if start and time.monotonic() > deadline:
            break
        batch = plan.assignments[start : start + BATCH]
        try:
            with transaction.atomic():
                done += _assign(batch)
        except IntegrityError as error:
            # A host port was taken by a transaction that our locks did not see: the constraint kept it.
            log.warning("plan_superseded", error=str(error))
    explain(plan.unplaced)
    return done


def _assign(batch: Sequence[Assignment]) -> int:
    wanted = {item.task_id: item.node_id for item in batch}
    nodes = list(Node.objects.select_for_update().filter(pk__in=set(wanted.values())).order_by("pk"))
    free = _room([node for node in nodes if _accepts(node)])
    tasks = (
        Task.objects.select_for_update(of=("self",))
        .select_related("service__collection")
        .filter(pk__in=wanted, observed__lte=TaskState.PENDING, desired__lte=TaskState.RUNNING)
        .order_by("pk")
    )
    bound = [task for task in tasks if _fits(task, wanted[task.pk], free)]
    if not bound:
        return 0
    Task.objects.filter(pk__in=[task.pk for task in bound]).update(
        node_id=Case(*(When(pk=task.pk, then=Value(wanted[task.pk])) for task in bound), output_field=CharField()),
        observed=TaskState.ASSIGNED,
        observed_at=database_now(),
        why_pending={},
        message="",
    )
    HostPort.objects.bulk_create(
        HostPort(node_id=wanted[task.pk], task=task, port=port, protocol=protocol)
        for task in bound
        for port, protocol in task.host_ports
    )
    touched = {wanted[task.pk] for task in bound}
    Node.objects.filter(pk__in=touched).update(assign_rev=F("assign_rev") + 1)
    _record(bound, wanted)
    assignments_after_commit(touched)
    return len(bound)


def _accepts(node: Node) -> bool:
    return node.state == NodeState.READY and node.availability == Availability.ACTIVE and node.approved_at is not None


def _fits(task: Task, node_id: str, free: dict[str, _Free]) -> bool:
    room = free.get(node_id)
    if room is None or (task.node_id is not None and task.node_id != node_id):
        return False
    return room.take(task)


def _room(nodes: Sequence[Node]) -> dict[str, _Free]:
    """Room on locked nodes, summed from the rows of their tasks: nothing that could drift."""
    used = {
        node_id: (cpus or 0, memory or 0)
        for node_id, cpus, memory in Task.objects.occupying()
        .filter(node__in=nodes)
        .order_by()
        .values_list("node_id")
        .annotate(cpus=Sum("reserve_nano_cpus"), memory=Sum("reserve_memory"))
    }
    ports: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for node_id, port, protocol in HostPort.objects.filter(node__in=nodes).values_list("node_id", "port", "protocol"):
        ports[node_id].add((port, protocol))
    return {node.pk: _Free(node, *used.get(node.pk, (0, 0)), ports[node.pk]) for node in nodes}


class _Free:
    """What is left on one node; shrinks as the batch takes it."""

    def __init__(self, node: Node, nano_cpus: int, memory: int, ports: set[tuple[int, str]]) -> None:
        self.nano_cpus = node.nano_cpus - nano_cpus
        self.memory = node.memory - memory
        self.ports = ports

    def take(self, task: Task) -> bool:
        ports = {(port, protocol) for port, protocol in task.host_ports}
        if task.reserve_nano_cpus and task.reserve_nano_cpus > self.nano_cpus:
            return False
        if task.reserve_memory and task.reserve_memory > self.memory:
            return False
        if ports & self.ports:
            return False
        self.nano_cpus -= task.reserve_nano_cpus
        self.memory -= task.reserve_memory
        self.ports |= ports
        return True


def _record(bound: Iterable[Task], wanted: dict[str, str]) -> None:
    by_service: dict[str, list[Task]] = defaultdict(list)
    for task in bound:
        by_service[task.service_id].append(task)
    for service_id, tasks in by_service.items():
        events.record(
            "service.tasks_assigned",
            actor=SYSTEM,
            target=f"service/{service_id}",
            collection_path=tasks[0].service.collection.path,
            data={"tasks": [{"id": task.pk, "slot": task.slot, "node": wanted[task.pk]} for task in tasks]},
        )


def explain(unplaced: Sequence[Unplaced]) -> int:
    """Store on each waiting task how many nodes each filter refused; rows that already say so are left alone."""
    told = {
        pk: (observed, why)
        for pk, observed, why in Task.objects.filter(pk__in=[item.task_id for item in unplaced]).values_list(
            "pk", "observed", "why_pending"
        )
    }
    groups: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, dict[str, object]] = {}
    for item in unplaced:
        why = {"nodes": item.nodes, "reasons": dict(item.reasons), "text": item.text}
        if item.task_id in told and told[item.task_id] != (TaskState.PENDING, why):
            groups[item.text].append(item.task_id)
            reasons[item.text] = why
    if not groups:
        return 0
    with transaction.atomic():
        for text, ids in groups.items():
            waiting = Task.objects.filter(pk__in=ids, observed__lte=TaskState.PENDING)
            waiting.update(observed=TaskState.PENDING, why_pending=reasons[text], message=text[:500])
            _record_waiting(ids, text)
    return sum(map(len, groups.values()))


def _record_waiting(ids: Sequence[str], text: str) -> None:
    services = Task.objects.filter(pk__in=ids).order_by().values_list("service_id", "service__collection__path").distinct()
    for service_id, path in services:
        events.record(
            "service.tasks_waiting", actor=SYSTEM, target=f"service/{service_id}", collection_path=path, data={"reason": text}
        )
