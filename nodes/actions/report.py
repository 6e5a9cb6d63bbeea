"""What nodes report. Every write is fenced by the session's epoch and states only grow, so a stale process, an old session or a
replay changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from agent.protocol import codec
from agent.protocol.errors import InvalidInput
from agent.protocol.messages import ContainerInfo, Contents, ImageInfo, Inventory, Samples, TaskStatus
from agent.protocol.states import TaskState
from controlplane import events
from controlplane.events.chain import clean
from controlplane.jobs.clock import database_now
from nodes.actions.session import check_epoch, lock_session, node_actor
from nodes.actions.wake import containers_after_commit, reconcile_after_commit
from nodes.models import Action, Container, HostPort, Node, NodeImage, Task, UsageSample
from nodes.models.sample import PERIOD, RING

_TOLD = ("nano_cpus", "memory", "architecture", "hostname", "problems")  # of an inventory: a change is an event
REPORTABLE = range(TaskState.ACCEPTED, TaskState.REMOVE)  # what a node may say of a task
MAX_TASKS = MAX_CONTAINERS = MAX_IMAGES = 5000  # what one node may report; a real one has far fewer
MAX_ENTRIES, MAX_VALUE = 256, 4096  # labels, addresses, ports of one container; characters of one value
INT32 = (1 << 31) - 1
NOTABLE = (TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED)


def report(node_id: str, epoch: int, statuses: Sequence[TaskStatus]) -> int:
    """Write observed states; the number of rows that changed.

    Raises `StaleSession` when the epoch is not the node's current one, `InvalidInput` for a state that is not a node's to report.
    """
    wrong = next((item for item in statuses if item.observed not in REPORTABLE), None)
    if wrong is not None:
        raise InvalidInput(f"a node cannot report {wrong.observed.name} for task {wrong.task_id}")
    if len(statuses) > MAX_TASKS:
        raise InvalidInput(f"a report of {len(statuses)} tasks; the limit is {MAX_TASKS}")
    with transaction.atomic():
        check_epoch(node_id, epoch)
        # Locked in id order: two reports that overlap (resent over a new link) must not wait for each other crosswise.
        wanted = {item.task_id for item in statuses}
        list(Task.objects.select_for_update(of=("self",)).filter(pk__in=wanted, node_id=node_id).order_by("pk").values_list("pk"))
        now = database_now()
        changed = [item for item in statuses if _write(node_id, epoch, item, now)]
        if changed:
            ended = [item.task_id for item in changed if item.observed.terminal]
            HostPort.objects.filter(task_id__in=ended).delete()
            _record(node_id, changed)
            reconcile_after_commit()
    return len(changed)


def _write(node_id: str, epoch: int, item: TaskStatus, now: datetime) -> bool:
    rows = Task.objects.fenced(node_id, epoch).filter(pk=item.task_id)
    details: dict[str, Any] = clean(
        {
            "status_at": item.at,
            "message": item.message[:500],
            "error": item.error[:2000],
            "container_id": item.container_id[:64],
            "pid": _small(item.pid),
            "exit_code": None if item.exit_code is None else _small(item.exit_code),
            "oom_killed": item.oom_killed,
            "health": item.health[:16],
            "addresses": _addresses(item.addresses),
            "ports": _ports(item.ports),
        }
    )
    grown = {"observed": item.observed, "observed_at": now}
    if item.observed is TaskState.RUNNING:
        grown["running_at"] = now
    if rows.filter(observed__lt=item.observed).update(**grown, **details):
        return True
    # The same state with news (health, addresses), unless it is a repeat or older.
    return bool(rows.filter(observed=item.observed, status_at__lt=item.at).update(**details))


def _small(value: int) -> int:
    """Within a 32-bit column: a hostile node must not make its own report unstorable, nor ours."""
    return max(-INT32, min(value, INT32))


def _addresses(values: Sequence[str]) -> list[str]:
    return [value[:64] for value in values[:MAX_ENTRIES]]


def _ports(ports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The four known fields of each published port, whatever else the node says."""
    return [
        {
            "host_ip": str(port.get("host_ip", ""))[:64],
            "host_port": _port(port.get("host_port")),
            "container_port": _port(port.get("container_port")),
            "protocol": str(port.get("protocol", ""))[:8],
        }
        for port in ports[:MAX_ENTRIES]
    ]


def _port(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= 65535 else 0


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key)[:MAX_VALUE]: str(value)[:MAX_VALUE] for key, value in list(values.items())[:MAX_ENTRIES]}


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key[:64]: value for key, value in list(values.items())[:64]}


def _record(node_id: str, changed: Sequence[TaskStatus]) -> None:
    """One event a service: its readers see it, readers of other services do not."""
    node = Node.objects.get(pk=node_id)
    by_id = {item.task_id: item for item in changed if item.observed in NOTABLE}
    tasks = Task.objects.filter(pk__in=by_id).select_related("service__collection")
    by_service: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_service[task.service_id].append(task)
    for service_id, items in by_service.items():
        data = {"node": node_id, "tasks": [_told(task, by_id[task.pk]) for task in items]}
        path = items[0].service.collection.path
        events.record(
            "service.tasks_reported", actor=node_actor(node), target=f"service/{service_id}", collection_path=path, data=data
        )


def _told(task: Task, item: TaskStatus) -> dict[str, Any]:
    told: dict[str, Any] = {"id": task.pk, "slot": task.slot, "observed": item.observed.name.lower()}
    if item.exit_code is not None:
        told["exit_code"] = item.exit_code
    if item.error:
        told["error"] = item.error[:300]
    return told


def record_inventory(node_id: str, inventory: Inventory) -> None:
    """What the node is. Capacity that shrank makes the constraint enforcer look."""
    with transaction.atomic():
        node = lock_session(node_id, inventory.epoch)
        data = clean(codec.encode(inventory))
        data.pop("epoch", None)
        data = {key: value[:MAX_VALUE] if isinstance(value, str) else value for key, value in data.items()}
        for key in ("features", "graph_drivers", "problems"):
            data[key] = clean(_addresses(getattr(inventory, key)))
        data["labels"] = clean(_texts(inventory.labels))
        data["addresses"] = clean(_addresses(inventory.addresses))
        changed = {key for key in _TOLD if data.get(key) != node.inventory.get(key)}
        node.hostname = clean(inventory.hostname[:253]) or node.hostname
        node.os, node.architecture = clean(inventory.os[:16]), clean(inventory.architecture[:16])
        node.nano_cpus, node.memory = max(0, inventory.nano_cpus), max(0, inventory.memory)
        labels = list(inventory.labels.items())[:MAX_ENTRIES]
        node.engine_labels = clean({str(key)[:128]: str(value)[:256] for key, value in labels})
        node.addresses = clean([str(address)[:64] for address in inventory.addresses][:64])
        node.agent_version = clean(inventory.agent_version[:40])
        node.inventory = data
        node.save()
        if changed:
            events.record(
                "node.inventoried",
                actor=node_actor(node),
                target=f"node/{node.pk}",
                collection_path=node.collection.path,
                data={"changed": sorted(changed)},
            )
        reconcile_after_commit()


def record_contents(node_id: str, contents: Contents) -> None:
    """Containers and images of the node, whole: rows that it no longer names go."""
    if len(contents.containers) > MAX_CONTAINERS or len(contents.images) > MAX_IMAGES:
        raise InvalidInput(f"more than {MAX_CONTAINERS} containers or {MAX_IMAGES} images on one node")
    # Named twice is named once: the rows are unique.
    containers = {clean(info.id)[:64]: info for info in contents.containers}
    images = {clean(info.id)[:140]: info for info in contents.images}
    with transaction.atomic():
        node = lock_session(node_id, contents.epoch)
        if _containers(node, tuple(replace(info, id=key) for key, info in containers.items())):
            containers_after_commit(node_id)
        _images(node, tuple(replace(info, id=key) for key, info in images.items()))


def _when(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < 1e11 else None


def _containers(node: Node, infos: Sequence[ContainerInfo]) -> int:
    """Bring the node's rows to what it says; how many rows changed."""
    known = {row.container_id: row for row in Container.objects.filter(node=node)}
    task_ids = {info.task_id for info in infos if info.task_id}
    tasks = {task.pk: task for task in Task.objects.filter(pk__in=task_ids, node=node).select_related("service")}
    made = _makers(node, [info.id for info in infos if info.id not in known and info.task_id not in tasks])
    fresh: list[Container] = []
    changed: list[Container] = []
    for info in infos:
        row = known.pop(info.id, None)
        task = tasks.get(info.task_id)
        collection_id = (
            task.service.collection_id if task else row.collection_id if row else made.get(info.id, node.collection_id)
        )
        values = _container_values(info, task, collection_id)
        if row is None:
            fresh.append(Container(node=node, container_id=info.id, **values))
        elif any(getattr(row, name) != value for name, value in values.items()):
            for name, value in values.items():
                setattr(row, name, value)
            changed.append(row)
    Container.objects.filter(pk__in=[row.pk for row in known.values()]).delete()
    Container.objects.bulk_create(fresh)
    if changed:
        Container.objects.bulk_update(changed, _CONTAINER_FIELDS, batch_size=100)
    return len(known) + len(fresh) + len(changed)


def _makers(node: Node, container_ids: Iterable[str]) -> dict[str, str]:
    """Collections of containers that users made by hand: those of the actions that made them."""
    wanted = set(container_ids)
    if not wanted:
        return {}
    rows = Action.objects.filter(node=node, kind="container_create", state="done").values_list("result", "collection_id")
    return {str(result.get("id")): collection_id for result, collection_id in rows if result.get("id") in wanted}


def _container_values(info: ContainerInfo, task: Task | None, collection_id: str) -> dict[str, Any]:
    reported = clean(
        {
            "name": info.name[:128],
            "image": info.image[:600],
            "image_id": info.image_id[:140],
            "command": info.command[:300],
            "state": info.state[:12],
            "health": info.health[:12],
            "pid": max(0, _small(info.pid)),
            "exit_code": None if info.exit_code is None else _small(info.exit_code),
            "oom_killed": info.oom_killed,
            "restarts": max(0, _small(info.restarts)),
            "isolation": info.isolation[:12],
            "labels": _texts(info.labels),
            "addresses": _addresses(info.addresses),
            "ports": _ports(info.ports),
        }
    )
    return {
        **reported,
        "task_id": task.pk if task else None,
        "service_id": task.service_id if task else None,
        "collection_id": collection_id,
        "created_at": _when(info.created) or datetime.fromtimestamp(0, UTC),
        "started_at": _when(info.started),
        "finished_at": _when(info.finished),
    }


_CONTAINER_FIELDS = (
    "task", "service", "collection", "name", "image", "image_id", "command", "state", "health", "pid", "exit_code", "oom_killed",
    "restarts", "isolation", "labels", "addresses", "ports", "created_at", "started_at", "finished_at",
)  # fmt: skip


def _images(node: Node, infos: Sequence[ImageInfo]) -> None:
    ids = [info.id for info in infos]
    NodeImage.objects.filter(node=node).exclude(image_id__in=ids).delete()
    rows = [
        NodeImage(
            node=node,
            image_id=info.id,
            size=max(0, info.size),
            tags=clean([tag[:MAX_VALUE] for tag in info.tags[:MAX_ENTRIES]]),
            digests=clean([digest[:MAX_VALUE] for digest in info.digests[:MAX_ENTRIES]]),
            created_at=_when(info.created) or datetime.now(UTC),
        )
        for info in infos
    ]
    NodeImage.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["node", "image_id"], update_fields=["size", "tags", "digests"]
    )


def record_samples(node_id: str, samples: Samples) -> None:
    """Put one batch into the node's ring, in the place of the one of a quarter of an hour ago."""
    if len(samples.containers) > MAX_CONTAINERS:
        raise InvalidInput(f"samples of more than {MAX_CONTAINERS} containers")
    check_epoch(node_id, samples.epoch)
    now = database_now()
    row = UsageSample(
        node_id=node_id,
        place=int(now.timestamp() // PERIOD) % RING,
        at=now,
        usage=clean(_numbers(samples.node)),
        containers=clean({key[:64]: _numbers(value) for key, value in samples.containers.items()}),
    )
    UsageSample.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=["node", "place"], update_fields=["at", "usage", "containers"]
    )
