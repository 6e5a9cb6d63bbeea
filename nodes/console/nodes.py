"""Pages of nodes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from agent.protocol.errors import InvalidInput, NotFound
from agent.protocol.states import Availability
from controlplane.api import access
from controlplane.console.pages import Page
from nodes import actions
from nodes.console import charts
from nodes.console.words import node_state
from nodes.models import Container, JoinToken, Node, NodeImage, Service, Task

PER_PAGE = 100
CHARTS = ("cpu", "memory", "network")


def visible_node(page: Page, key: str) -> Node:
    node = access.visible(page.actor, Node.objects.members().select_related("collection")).filter(pk=key).first()
    if node is None:
        raise NotFound("There is no such node, or you may not see it.")
    return node


class Nodes(Page):
    operation = "Node View"
    template = "nodes/nodes.html"
    title = "Nodes"
    current = "nodes"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Node.objects.members().select_related("collection"))
        page = Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page"))
        for node in page:
            node.word = node_state(node)  # type: ignore[attr-defined]  # for the template, beside the row
        return {
            "page": page,
            "may_join": self.may("JoinToken Create"),
            "fresh": self.request.session.pop("fresh_join", None),
            "host": self.request.get_host(),
            "tokens": access.visible(self.actor, JoinToken.objects.usable()) if self.may("JoinToken View") else [],
        }

    def act_token(self) -> None:
        self.require(operation="JoinToken Create")
        data = self.request.POST
        hours = data.get("hours", "24")
        uses = data.get("uses", "1")
        if not (hours.isdigit() and uses.isdigit()):
            raise InvalidInput("hours and uses are numbers")
        _, text = actions.create_join_token(
            self.actor,
            name=data.get("name", ""),
            uses=int(uses),
            lifetime=timedelta(hours=int(hours)),
            needs_approval=data.get("needs_approval") == "on",
        )
        self.request.session["fresh_join"] = text

    def act_revoke(self) -> None:
        token = access.visible(self.actor, JoinToken.objects.filter(pk=self.request.POST.get("id", ""))).first()
        if token is None:
            raise NotFound("there is no such token")
        self.require(token, operation="JoinToken Revoke")
        actions.revoke_join_token(self.actor, token)
        self.done("The token lets nobody join any more; nodes that used it stay.")


class NodeDetail(Page):
    operation = {"get": "Node View", "post": "Node Update"}
    template = "nodes/node.html"
    current = "nodes"

    def context(self) -> dict[str, Any]:
        node = visible_node(self, self.kwargs["pk"])
        services = access.visible(self.actor, Service.objects.all(), "Service View Tasks")
        tasks = Task.objects.live().filter(node=node, service__in=services).select_related("service")
        containers = access.visible(self.actor, Container.objects.filter(node=node))
        return {
            "node": node,
            "title": node.hostname,
            "word": node_state(node),
            "tasks": tasks[:PER_PAGE],
            "containers": containers[:PER_PAGE],
            "images": NodeImage.objects.filter(node=node)[:PER_PAGE],
            "charts": [
                {"url": reverse("node-chart", args=[node.pk, kind]), "kind": unit, "label": label}
                for kind, unit, label in (
                    ("cpu", "percent", "CPU"),
                    ("memory", "bytes", "Memory"),
                    ("network", "rate", "Network"),
                )
            ],
            "availabilities": [item.value for item in Availability],
            "may_update": self.may("Node Update", node),
            "may_approve": node.pending and self.may("Node Approve", node),
            "may_remove": self.may("Node Remove", node),
        }

    def _node(self) -> Node:
        return visible_node(self, self.kwargs["pk"])

    def act_availability(self) -> None:
        node = self._node()
        self.require(node, operation="Node Update")
        wanted = self.request.POST.get("availability", "")
        if wanted not in set(Availability):
            raise InvalidInput("availability is active, pause or drain")
        actions.set_availability(self.actor, node, Availability(wanted))
        self.done(
            {"drain": "Its tasks move to other nodes.", "pause": "It gets no new tasks; what runs stays."}.get(
                wanted, "It takes tasks again."
            )
        )

    def act_approve(self) -> None:
        node = self._node()
        self.require(node, operation="Node Approve")
        actions.approve_node(self.actor, node)
        self.done(f"Node {node.hostname} takes tasks from now on.")

    def act_remove(self) -> str:
        node = self._node()
        self.require(node, operation="Node Remove")
        actions.remove_node(self.actor, node, force=self.request.POST.get("force") == "on")
        self.done(f"Node {node.hostname} was removed; it is refused from now on.")
        return reverse("nodes")


class NodeChart(Page):
    operation = "Node View"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if kwargs["kind"] not in CHARTS:
            raise NotFound("there is no such chart")
        return JsonResponse(charts.node_chart(visible_node(self, kwargs["pk"]), kwargs["kind"]))


class FleetChart(Page):
    operation = "Node View"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if kwargs["kind"] not in ("cpu", "memory"):
            raise NotFound("there is no such chart")
        return JsonResponse(charts.fleet_chart(access.visible(self.actor, Node.objects.members()), kwargs["kind"]))
