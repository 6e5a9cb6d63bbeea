"""/api/v1/containers and /api/v1/actions."""

from __future__ import annotations

from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol import codec
from agent.protocol.errors import Conflict, NotFound
from agent.protocol.spec import ContainerSpec, check_object_name
from controlplane.api import access
from controlplane.api.filters import Filters
from controlplane.api.views import ModelRoutes
from controlplane.rbac import collections
from nodes import actions, queries
from nodes.api.serializers import (
    ActionSerializer,
    ContainerSerializer,
    EmptySerializer,
    GraceSerializer,
    KillSerializer,
    NewContainerSerializer,
    SampleSerializer,
)
from nodes.api.waiting import WAIT, answer, refuse_unreachable
from nodes.models import Action, Container, Node

FORCE = OpenApiParameter("force", bool, description="Kill it first.")


class ContainerFilter(Filters):
    node = filters.CharFilter(field_name="node_id")
    service = filters.CharFilter(field_name="service_id")
    task = filters.CharFilter(field_name="task_id")
    name = filters.CharFilter()

    class Meta:
        model = Container
        fields = ["state", "health"]


class Containers(ModelRoutes):
    """What runs on the nodes, of tasks and by hand. Found by id, by the runtime's id or a prefix of it, or by name."""

    queryset = Container.objects.select_related("node", "collection")
    filterset_class = ContainerFilter
    query = frozenset({"wait", "force"})
    operations = {
        "list": "Container View",
        "retrieve": "Container View",
        "create": "Container Create",
        "start": "Container Start",
        "stop": "Container Stop",
        "restart": "Container Restart",
        "kill": "Container Kill",
        "pause": "Container Pause",
        "unpause": "Container Unpause",
        "destroy": "Container Remove",
        "samples": "Container Stats",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewContainerSerializer,
            "start": EmptySerializer,
            "stop": GraceSerializer,
            "restart": GraceSerializer,
            "kill": KillSerializer,
            "pause": EmptySerializer,
            "unpause": EmptySerializer,
            "samples": SampleSerializer,
        }.get(self.action, ContainerSerializer)

    def get_object(self) -> Container:
        seen: Any = access.visible(self.actor, Container.objects.select_related("node", "collection"))
        found: list[Container] = list(seen.called(self.kwargs["pk"])[:2])
        if not found:
            raise NotFound("There is no such container, or you may not see it.")
        if len(found) > 1:
            raise Conflict("Several containers are meant by that: give more of the id.")
        self.require(found[0])
        return found[0]

    @extend_schema(parameters=[WAIT], responses={201: ActionSerializer, 202: ActionSerializer})
    def create(self, request: Request) -> Response:
        """A container by hand on one node."""
        data = self.validated()
        node = access.visible(self.actor, Node.objects.members(), "Node Schedule").filter(pk=data["node"]).first()
        if node is None:
            raise NotFound("There is no such node, or you may not schedule on it.")
        refuse_unreachable(node)
        name = check_object_name(data["name"], "container") if data.get("name") else ""
        place = collections.resolve(data["collection"]) if "collection" in data else None
        made = actions.create_container(
            self.actor,
            node,
            codec.decode(ContainerSpec, data["spec"]),
            name=name,
            collection=place,
            start=data.get("start", True),
        )
        return answer(request, made, status.HTTP_201_CREATED)

    def _act(self, request: Request, kind: str, args: dict[str, Any] | None = None) -> Response:
        container = self.get_object()
        refuse_unreachable(container.node)
        made = actions.queue_action(
            self.actor, container.node, kind, container.container_id, args, collection=container.collection
        )
        return answer(request, made)

    @extend_schema(parameters=[WAIT], request=EmptySerializer, responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_start")

    @extend_schema(parameters=[WAIT], responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_stop", self.validated())

    @extend_schema(parameters=[WAIT], responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def restart(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_restart", self.validated())

    @extend_schema(parameters=[WAIT], responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def kill(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_kill", {"signal": "SIGKILL", **self.validated()})

    @extend_schema(parameters=[WAIT], request=EmptySerializer, responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_pause")

    @extend_schema(parameters=[WAIT], request=EmptySerializer, responses={200: ActionSerializer, 202: ActionSerializer})
    @action(detail=True, methods=["post"])
    def unpause(self, request: Request, pk: str) -> Response:
        return self._act(request, "container_unpause")

    @extend_schema(parameters=[WAIT, FORCE], responses={200: ActionSerializer, 202: ActionSerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """Remove it from its node. One of a task is replaced by its service."""
        force = request.query_params.get("force", "").lower() in {"1", "true"}
        return self._act(request, "container_remove", {"force": force})

    @extend_schema(responses=SampleSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def samples(self, request: Request, pk: str) -> Response:
        """Usage of the last quarter of an hour, oldest first."""
        container = self.get_object()
        return Response(queries.samples(container.node_id, container.container_id))


class ActionFilter(Filters):
    node = filters.CharFilter(field_name="node_id")
    state = filters.CharFilter()
    target = filters.CharFilter()


class Actions(ModelRoutes):
    """One-shot acts and their results."""

    queryset = Action.objects.select_related("node", "collection")
    filterset_class = ActionFilter
    serializer_class = ActionSerializer
    operations = {"list": "Action View", "retrieve": "Action View"}
