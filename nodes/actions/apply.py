"""Carry out what the orchestrator decided: one transaction a service, each change checked again against the row it touches."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from django.db import IntegrityError, transaction

from agent.protocol import codec
from agent.protocol.spec import ContainerSpec
from agent.protocol.states import TaskState
from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.events.chain import clean
from controlplane.jobs.clock import database_now
from nodes.actions.wake import assignments_after_commit
from nodes.models import HostPort, RestartHistory, Service, Task
from nodes.models.task import bump
from nodes.orchestrator import (
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
from nodes.snapshot import Snapshot, UpdateState, UpdateStatus, host_ports

log = structlog.get_logger(__name__)
ChangeT = TypeVar("ChangeT", CreateTask, SetDesired, SetObserved, DeleteTask, SetUpdate, RollBack, DeleteService)


def apply(decision: Decision, snapshot: Snapshot, *, deadline: float = math.inf) -> int:
    """Apply `decision`, made from `snapshot`; the number of changes that were carried out.

    No service is begun after `deadline` (monotonic seconds). A service whose row was written since is left for the next round:
    what was decided for it may be wrong now.
    """
    service_of = {task.id: task.service_id for task in snapshot.tasks}
    versions = {service.id: service.version for service in snapshot.services}
    groups: dict[str, list[Change]] = defaultdict(list)
    for change in decision.changes:
        groups[_service_id(change, service_of)].append(change)
    done = 0
    for service_id, changes in groups.items():
        if done and time.monotonic() > deadline:
            break
        try:
            with transaction.atomic():
                done += _apply(service_id, versions.get(service_id, 0), changes)
        except IntegrityError as error:
            # Another reconciler was faster (its lease ran out while it worked): the constraints kept one of the two.
            log.warning("decision_superseded", service=service_id, error=str(error))
    return done


def _service_id(change: Change, service_of: Mapping[str, str]) -> str:
    if isinstance(change, SetDesired | SetObserved | DeleteTask):
        return service_of[change.task_id]
    return change.service_id


def _of(kind: type[ChangeT], changes: Iterable[Change]) -> list[ChangeT]:
    return [change for change in changes if isinstance(change, kind)]


def _apply(service_id: str, version: int, changes: Sequence[Change]) -> int:
    # Order of locks everywhere: nodes by id, then tasks, then the event chain. The service row orders two reconcilers.
    service = (
        Service.objects.select_for_update(of=("self",))
        .select_related("collection")
        .filter(pk=service_id, version=version)
        .first()
    )
    if service is None:
        return 0
    touched = [change.task_id for change in changes if isinstance(change, SetDesired | SetObserved | DeleteTask)]
    nodes = set(
        Task.objects.filter(pk__in=touched, node__isnull=False, observed__gte=TaskState.ASSIGNED)
        .order_by()
        .values_list("node_id", flat=True)
        .distinct()
    )
    bump({str(node_id) for node_id in nodes})
    now = database_now()
    _set_observed(_of(SetObserved, changes), now)
    _set_desired(_of(SetDesired, changes))
    for roll_back in _of(RollBack, changes):
        restore_previous(service, roll_back.message, now)
    _create(service, _of(CreateTask, changes), now)
    _delete(_of(DeleteTask, changes))
    for update in _of(SetUpdate, changes):
        Service.objects.filter(pk=service.pk).update(update_status=codec.encode(update.status))
    deleted = [_delete_service(service) for _ in _of(DeleteService, changes)]
    _record(service, changes, bool(deleted and deleted[0]))
    assignments_after_commit(str(node_id) for node_id in nodes)
    return len(changes)


def _set_desired(changes: Sequence[SetDesired]) -> None:
    by_state: dict[TaskState, list[str]] = defaultdict(list)
    for change in changes:
        by_state[change.desired].append(change.task_id)
    for desired, ids in by_state.items():
        Task.objects.filter(pk__in=ids, desired__lt=desired).update(desired=desired)


def _set_observed(changes: Sequence[SetObserved], now: datetime) -> None:
    for change in changes:
        rows = Task.objects.filter(pk=change.task_id, observed__lt=change.observed)
        if rows.update(observed=change.observed, observed_at=now, message=change.message[:500]):
            HostPort.objects.filter(task_id=change.task_id).delete()


def _delete(changes: Sequence[DeleteTask]) -> None:
    rows = Task.objects.filter(pk__in=[change.task_id for change in changes], desired__gt=TaskState.RUNNING)
    # Never a task that a node runs: an assignment may have come between.
    rows.exclude(observed__gte=TaskState.ASSIGNED, observed__lte=TaskState.RUNNING).delete()


def _delete_service(service: Service) -> bool:
    if service.removed_at is None or Task.objects.filter(service=service).exists():
        return False
    Service.objects.filter(pk=service.pk).delete()
    return True


def _create(service: Service, changes: Sequence[CreateTask], now: datetime) -> None:
    if not changes:
        return
    container = codec.decode(ContainerSpec, service.spec["container"])
    ports = [list(port) for port in host_ports(container.ports)]
    rows = [
        Task(
            service=service,
            slot=change.slot,
            node_id=change.node_id or None,
            desired=change.desired,
            spec=service.spec["container"],
            image=service.image,
            generation=service.generation,
            template=service.template,
            reserve_nano_cpus=container.resources.reserve_nano_cpus,
            reserve_memory=container.resources.reserve_memory,
            host_ports=ports,
            start_after=datetime.fromtimestamp(change.start_after, UTC) if change.start_after else None,
            created_at=now + timedelta(microseconds=index),
            observed_at=now,
        )
        for index, change in enumerate(changes)
    ]
    Task.objects.bulk_create(rows, batch_size=500)
    _remember_restarts(service, changes, now)


def _remember_restarts(service: Service, changes: Sequence[CreateTask], now: datetime) -> None:
    causes = {change.restart_of: change for change in changes if change.restart_of}
    old = {row.pk: row for row in Task.objects.filter(pk__in=causes).only("pk", "node_id", "observed")}
    RestartHistory.objects.bulk_create(
        RestartHistory(
            service=service,
            slot=change.slot,
            node_id=(old[task_id].node_id or "") if task_id in old else "",
            generation=service.generation,
            at=now,
            failed=task_id in old and old[task_id].observed in (TaskState.FAILED, TaskState.REJECTED),
        )
        for task_id, change in causes.items()
    )


def restore_previous(service: Service, message: str, now: datetime) -> None:
    """Spec := previous spec, a new generation, previous cleared. The caller holds the row's lock."""
    previous = service.previous or {}
    # A rollback undoes what tasks are made of, not how many of them are wanted now.
    service.spec = {**previous["spec"], "replicas": service.spec["replicas"]}
    service.image = previous["image"]
    service.platforms, service.template = previous["platforms"], previous["template"]
    service.generation += 1
    service.version += 1
    service.previous = None
    # Generation 0: the next round sees that this rollback has not begun and counts its slots.
    status = UpdateStatus(UpdateState.ROLLING_BACK, 0, now.timestamp(), message=message)
    service.update_status = codec.encode(status)
    service.save()


_KINDS = {
    CreateTask: "created",
    SetDesired: "desired",
    SetObserved: "observed",
    DeleteTask: "deleted",
}


def _record(service: Service, changes: Sequence[Change], deleted: bool) -> None:
    counts: dict[str, Any] = defaultdict(int)
    for change in changes:
        kind = _KINDS.get(type(change))
        if kind:
            counts[kind] += 1
    for update in _of(SetUpdate, changes):
        counts["update"] = {"state": update.status.state.value, "message": update.status.message}
    for roll_back in _of(RollBack, changes):
        counts["update"] = {"state": UpdateState.ROLLING_BACK.value, "message": roll_back.message}
    events.record(
        "service.removed" if deleted else "service.reconciled",
        actor=SYSTEM,
        target=f"service/{service.pk}",
        collection_path=service.collection.path,
        data=clean({"name": service.name, **counts}),
    )
