"""Reads over several models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count

from agent.protocol import codec
from agent.protocol.messages import Action as ActionMessage
from agent.protocol.messages import TaskAssignment
from agent.protocol.oci import Reference
from agent.protocol.spec import ContainerSpec, NetworkSpec, ServiceSpec
from agent.protocol.states import Availability, NodeState, TaskState
from controlplane.jobs.clock import database_now
from nodes.models import Action, Container, Node, RestartHistory, Service, Task, UsageSample, WebProcess
from nodes.snapshot import Brake, NodeLease, NodeView, Restart, ServiceView, Snapshot, TaskView
from nodes.templates import fill


def stamp(at: datetime | None) -> float:
    """A time as unix seconds; 0 for none."""
    return at.timestamp() if at is not None else 0.0


def cluster_snapshot() -> Snapshot:
    """Everything that the scheduler and the orchestrator decide from, at the database's time."""
    return Snapshot(
        now=stamp(database_now()),
        nodes=tuple(_node_view(node) for node in Node.objects.select_related("collection")),
        services=tuple(_service_view(service) for service in Service.objects.select_related("root")),
        tasks=tuple(_task_views()),
        restarts=tuple(
            Restart(service_id, slot, node_id, generation, stamp(at), failed)
            for service_id, slot, node_id, generation, at, failed in RestartHistory.objects.values_list(
                "service_id", "slot", "node_id", "generation", "at", "failed"
            )
        ),
    )


def _node_view(node: Node) -> NodeView:
    return NodeView(
        id=node.pk,
        hostname=node.hostname,
        state=NodeState(node.state),
        availability=_fitness(node),
        role=node.role,
        os=node.os,
        arch=node.architecture,
        labels=node.labels,
        engine_labels=node.engine_labels,
        addresses=tuple(node.addresses),
        nano_cpus=node.nano_cpus,
        memory=node.memory,
        collection=node.collection.path,
        approved=node.approved_at is not None,
        down_since=stamp(node.state_at) if node.state == NodeState.DOWN else 0.0,
        problems=tuple(node.inventory.get("problems", ())),
    )


def _fitness(node: Node) -> Availability:
    """As the administrator wants it; a node that cannot write its state is given nothing new, as if paused."""
    wanted = Availability(node.availability)
    return Availability.PAUSE if wanted is Availability.ACTIVE and node.inventory.get("problems") else wanted


def _service_view(service: Service) -> ServiceView:
    return ServiceView(
        id=service.pk,
        spec=codec.decode(ServiceSpec, service.spec),
        generation=service.generation,
        template=service.template,
        removed=service.removed_at is not None,
        update=service.update,
        has_previous=service.previous is not None,
        version=service.version,
        root=service.root.path,
        platforms=tuple((os, arch) for os, arch in service.platforms),
    )


_TASK_FIELDS = (
    "id", "service_id", "slot", "node_id", "desired", "observed", "generation", "template", "created_at", "observed_at",
    "running_at", "start_after", "reserve_nano_cpus", "reserve_memory", "host_ports",
)  # fmt: skip


def _task_views() -> Iterable[TaskView]:
    for row in Task.objects.order_by().values_list(*_TASK_FIELDS).iterator(chunk_size=2000):
        (task_id, service_id, slot, node_id, desired, observed, generation, template, created, observed_at, running_at,
         start_after, nano_cpus, memory, ports) = row  # fmt: skip
        yield TaskView(
            task_id, service_id, slot, node_id or "", TaskState(desired), TaskState(observed), generation, template,
            stamp(created), stamp(observed_at), stamp(running_at), stamp(start_after), nano_cpus, memory,
            tuple((port, protocol) for port, protocol in ports),
        )  # fmt: skip


def node_leases() -> list[NodeLease]:
    """What the sweep judges nodes by."""
    webs = dict(WebProcess.objects.values_list("pk", "seen_at"))
    rows = Node.objects.members().values_list("pk", "state", "lease_until", "state_at", "session", "web_id")
    return [
        NodeLease(pk, NodeState(state), stamp(lease), stamp(state_at), bool(session), stamp(webs.get(web_id)))
        for pk, state, lease, state_at, session, web_id in rows
    ]


def brake_of(engaged: datetime | None, released: datetime | None) -> Brake:
    return Brake(stamp(engaged), stamp(released))


def assignments(node_id: str) -> tuple[int, tuple[TaskAssignment, ...], tuple[NetworkSpec, ...]]:
    """The node's whole desired set and its revision: (rev, tasks, networks).

    The revision is read first: a change in between then shows up under a later one, never under an earlier.
    """
    rev = Node.objects.values_list("assign_rev", flat=True).get(pk=node_id)
    tasks = Task.objects.assigned_to(node_id).select_related("service", "node").order_by("pk")
    return rev, tuple(_assignment(task) for task in tasks), ()


def _assignment(task: Task) -> TaskAssignment:
    return TaskAssignment(
        task_id=task.pk,
        service_id=task.service_id,
        service_name=task.service.name,
        slot=task.slot,
        desired=TaskState(task.desired),
        spec=fill(codec.decode(ContainerSpec, task.spec), _names(task)),
        image=task.image,
        generation=task.generation,
        fence=task.fence,
        tenant=str(task.service.collection_id),
    )


def _names(task: Task) -> dict[str, str]:
    """What nodes.templates.NAMES mean for an assigned task."""
    return {
        "Service.ID": task.service_id,
        "Service.Name": task.service.name,
        "Node.ID": task.node_id or "",
        "Node.Hostname": task.node.hostname if task.node else "",
        "Task.ID": task.pk,
        "Task.Name": f"{task.service.name}.{task.slot or task.node_id}",
        "Task.Slot": str(task.slot),
    }


def assign_revs(node_ids: Iterable[str]) -> dict[str, int]:
    """Current revision of each node: what heartbeat acknowledgements carry."""
    return dict(Node.objects.filter(pk__in=list(node_ids)).values_list("pk", "assign_rev"))


@dataclass(frozen=True, slots=True)
class LinkRow:
    """What a live link must agree with. `actions` are the ids of acts that wait for the node."""

    epoch: int
    assign_rev: int
    actions: tuple[str, ...]
    given_up: bool  # the sweep declared the node down: its session must be opened anew


def link_rows(web_id: str) -> dict[str, LinkRow]:
    """The rows of all nodes whose link this web process holds; those that were removed or went elsewhere are not in it."""
    mine = Node.objects.members().filter(web_id=web_id)
    waiting: dict[str, list[str]] = defaultdict(list)
    queued = Action.objects.queued().filter(node__web_id=web_id, deadline__gt=database_now()).order_by()
    for node_id, action_id in queued.values_list("node_id", "pk"):
        waiting[node_id].append(action_id)
    rows = mine.order_by().values_list("pk", "epoch", "assign_rev", "state")
    return {pk: LinkRow(epoch, rev, tuple(waiting.get(pk, ())), state == NodeState.DOWN) for pk, epoch, rev, state in rows}


@dataclass(frozen=True, slots=True)
class WebPeer:
    """Where another web process of this control plane is."""

    id: str
    host: str
    port: int


def web_of_node(node_id: str) -> WebPeer | None:
    """The web process that holds the node's link, when it is alive."""
    web_id = Node.objects.members().filter(pk=node_id).exclude(session="").values_list("web_id", flat=True).first()
    row = WebProcess.objects.filter(pk=web_id or "", lease_until__gt=database_now()).first()
    return WebPeer(row.pk, row.host, row.port) if row else None


def is_web_process(fingerprint: str) -> bool:
    """Whether a client certificate is that of a live web process."""
    return bool(fingerprint) and WebProcess.objects.filter(fingerprint=fingerprint, lease_until__gt=database_now()).exists()


def node_of_certificate(fingerprint: str) -> Node | None:
    """The node that holds the key of a client certificate (sha256 of its DER, hex), by its current or its renewed one."""
    if not fingerprint:
        return None
    current = Node.objects.filter(fingerprint=fingerprint).first()
    return current or Node.objects.filter(next_fingerprint=fingerprint).first()


def pending_actions(node_id: str, epoch: int) -> list[ActionMessage]:
    """Acts that wait for the node, oldest first: sent after each welcome and when a hint comes."""
    rows = Action.objects.queued().filter(node_id=node_id, deadline__gt=database_now())
    return [ActionMessage(epoch, row.pk, row.kind, row.target, row.args, row.actor_name) for row in rows]


def may_pull(node_id: str, repository: str) -> bool:
    """May the node have a pull token of `repository`? Only for what its assignments or its waiting actions name."""
    for image in Task.objects.assigned_to(node_id).order_by().values_list("image", flat=True).distinct():
        if Reference.parse(image).repository == repository:
            return True
    queued = Action.objects.queued().filter(node_id=node_id, deadline__gt=database_now())
    pulls = queued.filter(kind__in=["image_pull", "container_create"]).values_list("args", flat=True)
    images = [str(args.get("reference") or args.get("spec", {}).get("image", "")) for args in pulls]
    return any(Reference.parse(image).repository == repository for image in images if image)


def samples(node_id: str, container_id: str = "") -> list[dict[str, Any]]:
    """The ring of a node or of one of its containers, oldest first: {"at": unix seconds, ...counters as reported}."""
    found: list[dict[str, Any]] = []
    for at, usage, containers in (
        UsageSample.objects.filter(node_id=node_id).order_by("at").values_list("at", "usage", "containers")
    ):
        values = containers.get(container_id) if container_id else usage
        if values is not None:
            found.append({"at": stamp(at), **values})
    return found


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A container that a stream can be opened to. `label` is for people: web.1@node."""

    node_id: str
    hostname: str
    container_id: str
    label: str


def stream_sources(containers: Iterable[str], service_id: str) -> list[StreamSource]:
    """The named containers, or all of a service's, oldest first."""
    rows = Container.objects.select_related("node", "task__service").order_by("created_at")
    wanted = rows.filter(service_id=service_id) if service_id else rows.filter(pk__in=list(containers))
    return [
        StreamSource(
            row.node_id,
            row.node.hostname,
            row.container_id,
            f"{row.task.service.name}.{row.task.slot}@{row.node.hostname}" if row.task else f"{row.name}@{row.node.hostname}",
        )
        for row in wanted
    ]


def task_counts(services: Iterable[Service]) -> dict[str, dict[str, int]]:
    """Service id -> observed state -> number of wanted tasks, for a page of services in one query."""
    rows = (
        Task.objects.live()
        .filter(service__in=[service.pk for service in services])
        .order_by()
        .values_list("service_id", "observed")
        .annotate(number=Count("pk"))
    )
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for service_id, observed, number in rows:
        counts[service_id][TaskState(observed).name.lower()] = number
    return counts
