"""Pages of containers."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.console.pages import Page
from nodes import actions
from nodes.console import charts
from nodes.models import Container

PER_PAGE = 100
ACTS = {
    "start": ("Container Start", "player-play"),
    "stop": ("Container Stop", "player-stop"),
    "restart": ("Container Restart", "refresh"),
    "pause": ("Container Pause", "player-pause"),
    "unpause": ("Container Unpause", "player-play"),
    "kill": ("Container Kill", "x"),
}
OFFERED = {
    "running": ("stop", "restart", "pause", "kill"),
    "paused": ("unpause", "stop"),
    "exited": ("start",),
    "created": ("start",),
}


def visible_container(page: Page, key: str) -> Container:
    rows = access.visible(page.actor, Container.objects.select_related("node", "service", "task", "collection"))
    found = rows.filter(pk=key).first() or rows.filter(container_id=key).first()
    if found is None:
        raise NotFound("There is no such container, or you may not see it.")
    return found


class Containers(Page):
    operation = "Container View"
    template = "nodes/containers.html"
    title = "Containers"
    current = "containers"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Container.objects.select_related("node", "service"))
        query = self.request.GET
        if text := query.get("q", "").strip():
            rows = rows.filter(name__icontains=text)
        if query.get("all") != "1":
            rows = rows.exclude(state="exited")
        page = Paginator(rows, PER_PAGE).get_page(query.get("page"))
        return {"page": page, "q": text, "all": query.get("all") == "1"}


class ContainerPage(Page):
    operation: ClassVar[str | dict[str, str]] = {"get": "Container View", "post": "Container Stop"}
    current = "containers"
    tab = ""

    def container(self) -> Container:
        return visible_container(self, self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        container = self.container()
        offered = [] if container.task_id else OFFERED.get(container.state, ())
        return {
            "container": container,
            "title": container.name,
            "tab": self.tab,
            "offered": [(name, ACTS[name][1]) for name in offered if self.may(ACTS[name][0], container)],
            "may_exec": container.state == "running" and self.may("Container Exec", container),
            "may_logs": self.may("Container Logs", container),
            "may_remove": not container.task_id and self.may("Container Remove", container),
        }


class ContainerDetail(ContainerPage):
    template = "nodes/container.html"
    tab = "summary"

    def context(self) -> dict[str, Any]:
        context = super().context()
        pk = context["container"].pk
        drawn = (("cpu", "percent", "CPU"), ("memory", "bytes", "Memory"))
        return {
            **context,
            "charts": [
                {"url": reverse("container-chart", args=[pk, kind]), "kind": unit, "label": label} for kind, unit, label in drawn
            ],
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        container = self.container()
        name = request.POST.get("act", "")
        if name == "remove":
            self.require(container, operation="Container Remove")
            actions.queue_action(
                self.actor,
                container.node,
                "container_remove",
                container.container_id,
                {"force": True},
                collection=container.collection,
            )
            self.done(f"{container.name} is being removed.")
            return self.redirect(reverse("containers"))
        if name not in ACTS:
            raise NotFound("this page does not know that act: reload it")
        self.require(container, operation=ACTS[name][0])
        actions.queue_action(
            self.actor, container.node, f"container_{name}", container.container_id, collection=container.collection
        )
        self.done(f"{container.name}: {name} was asked of node {container.node.hostname}.")
        return self.redirect(request.path)


class ContainerLogs(ContainerPage):
    operation = "Container Logs"
    template = "nodes/container_logs.html"
    tab = "logs"

    def context(self) -> dict[str, Any]:
        context = super().context()
        self.require(context["container"])
        return context


class ContainerTerminal(ContainerPage):
    operation = "Container Exec"
    template = "nodes/container_terminal.html"
    tab = "terminal"

    def context(self) -> dict[str, Any]:
        context = super().context()
        self.require(context["container"])
        return context


class ContainerChart(Page):
    operation = "Container Stats"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        container = visible_container(self, kwargs["pk"])
        self.require(container)
        if kwargs["kind"] not in ("cpu", "memory"):
            raise NotFound("there is no such chart")
        return JsonResponse(charts.container_chart(container, kwargs["kind"]))
