"""Where an image runs now, for the registry's pages: the tasks that were given its digest, and containers started by hand."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Q
from django.urls import reverse

from agent.protocol.states import TaskState
from controlplane.api import access
from controlplane.api.actor import Actor
from nodes.models import Container, Service, Task
from registry.running import Place

MOST = 100


def places(actor: Actor, digests: Sequence[str]) -> tuple[list[Place], int]:
    """(those that `actor` may see, at most MOST; the number of all others)."""
    named = Q(pk__in=())
    for digest in digests:
        named |= Q(image__endswith=f"@{digest}")
    tasks = Task.objects.occupying().filter(named)
    loose = Container.objects.running().filter(named, task=None)
    services = access.visible(actor, Service.objects.all(), "Service View Tasks")
    seen = tasks.filter(service__in=services).select_related("service", "node").order_by("service__name", "slot")
    found = [
        Place(
            "task",
            task.pk,
            f"{task.service.name}.{task.slot}",
            task.node.hostname if task.node else "",
            TaskState(task.observed).name.lower(),
            reverse("service", args=[task.service.name]),
        )
        for task in seen[:MOST]
    ]
    for container in access.visible(actor, loose).select_related("node")[: MOST - len(found)]:
        url = reverse("container", args=[container.pk])
        found.append(Place("container", container.pk, container.name, container.node.hostname, container.state, url))
    return found, tasks.count() + loose.count() - len(found)


def names(actor: Actor, holders: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{"service/<id>": ("service web", its page)} of those holders of leases that `actor` may see (nodes.actions.leases)."""
    keys = [holder.partition("/")[2] for holder in holders]
    services = access.visible(actor, Service.objects.filter(pk__in=keys)).values_list("pk", "name")
    containers = access.visible(actor, Container.objects.filter(pk__in=keys)).values_list("pk", "name")
    return {
        **{f"service/{key}": (f"service {name}", reverse("service", args=[name])) for key, name in services},
        **{f"container/{key}": (f"container {name}", reverse("container", args=[key])) for key, name in containers},
    }
