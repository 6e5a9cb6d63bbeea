"""The fleet's part of the overview and of the search."""

from __future__ import annotations

from django.db.models import Q
from django.urls import reverse

from agent.protocol.states import NodeState, TaskState
from controlplane.api import access
from controlplane.api.actor import Actor
from controlplane.console.overview import Attention, Hit, Tile
from nodes.console.words import service_state
from nodes.models import Container, Node, Service, Task
from nodes.queries import task_counts

FOUND = 20


def tiles(actor: Actor) -> list[Tile]:
    nodes = list(access.visible(actor, Node.objects.members()))
    ready = sum(node.state == NodeState.READY for node in nodes)
    services = list(access.visible(actor, Service.objects.standing()))
    counts = task_counts(services)
    whole = sum(service_state(service, counts.get(service.pk, {})) in ("running", "empty") for service in services)
    running = access.visible(actor, Container.objects.running()).count()
    cores = sum(node.nano_cpus for node in nodes if node.state == NodeState.READY) / 1e9
    memory = sum(node.memory for node in nodes if node.state == NodeState.READY) >> 30
    return [
        Tile("Nodes ready", f"{ready} of {len(nodes)}", f"{cores:g} cores, {memory} GiB", reverse("nodes")),
        Tile("Services whole", f"{whole} of {len(services)}", "all wanted tasks run", reverse("services")),
        Tile("Containers running", str(running), "of tasks and by hand", reverse("containers")),
    ]


def attention(actor: Actor) -> list[Attention]:
    found: list[Attention] = []
    for node in access.visible(actor, Node.objects.members()):
        url = reverse("node", args=[node.pk])
        if node.pending:
            found.append(Attention(f"Node {node.hostname} waits for approval", url))
        elif node.state in (NodeState.DOWN, NodeState.UNKNOWN):
            found.append(Attention(f"Node {node.hostname} is {node.state}", url, "failed"))
        if node.adopt_since is not None:
            found.append(Attention(f"Node {node.hostname} holds containers that the database does not know", url))
    services = list(access.visible(actor, Service.objects.standing()))
    counts = task_counts(services)
    for service in services:
        if service_state(service, counts.get(service.pk, {})) == "degraded":
            found.append(Attention(f"Service {service.name} is not whole", reverse("service", args=[service.name])))
    return found


def charts(actor: Actor) -> list[dict[str, str]]:
    if not access.visible(actor, Node.objects.members()).exists():
        return []
    return [
        {"url": reverse("fleet-chart", args=["cpu"]), "kind": "percent", "label": "CPU of the fleet"},
        {"url": reverse("fleet-chart", args=["memory"]), "kind": "bytes", "label": "Memory of the fleet"},
    ]


def find(actor: Actor, text: str) -> list[Hit]:
    services = access.visible(
        actor, Service.objects.standing().filter(Q(name__icontains=text) | Q(pk__startswith=text) | Q(image__icontains=text))
    )
    nodes = access.visible(actor, Node.objects.members().filter(Q(hostname__icontains=text) | Q(pk__startswith=text)))
    containers = access.visible(
        actor, Container.objects.filter(Q(name__icontains=text) | Q(container_id__startswith=text) | Q(image__icontains=text))
    )
    of_services = access.visible(actor, Service.objects.all(), "Service View Tasks")
    tasks = Task.objects.filter(pk__startswith=text, observed__lte=TaskState.RUNNING, service__in=of_services).select_related(
        "service"
    )
    return [
        *(Hit("service", item.name, item.image, reverse("service", args=[item.name])) for item in services[:FOUND]),
        *(Hit("node", item.hostname, item.state, reverse("node", args=[item.pk])) for item in nodes[:FOUND]),
        *(Hit("container", item.name, item.image, reverse("container", args=[item.pk])) for item in containers[:FOUND]),
        *(
            Hit("task", f"{item.service.name}.{item.slot}", item.pk, reverse("service", args=[item.service.name]))
            for item in tasks[:FOUND]
        ),
    ]
