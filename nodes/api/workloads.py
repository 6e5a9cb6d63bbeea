"""/api/v1/services and /api/v1/tasks."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol import codec
from agent.protocol.errors import InvalidInput
from agent.protocol.spec import ServiceSpec
from agent.protocol.states import TaskState
from controlplane.api import access
from controlplane.api.filters import Filters
from controlplane.api.views import ModelRoutes
from controlplane.rbac import collections
from nodes import actions
from nodes.api.serializers import (
    EmptySerializer,
    NewServiceSerializer,
    ScaleSerializer,
    ServiceChangeSerializer,
    ServiceSerializer,
    TaskSerializer,
)
from nodes.models import Service, Task
from nodes.queries import task_counts


class ServiceFilter(Filters):
    name = filters.CharFilter(lookup_expr="iexact")
    collection = filters.CharFilter(field_name="collection__path", lookup_expr="iexact")


def shown(service: Service) -> dict[str, Any]:
    return dict(ServiceSerializer(service, context={"counts": task_counts([service])}).data)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


class Services(ModelRoutes):
    """What should run. A service's image is resolved to a digest when it is created."""

    queryset = Service.objects.select_related("collection", "root")
    filterset_class = ServiceFilter
    operations = {
        "list": "Service View",
        "retrieve": "Service View",
        "create": "Service Create",
        "update": "Service Update",
        "partial_update": "Service Update",
        "destroy": "Service Delete",
        "scale": "Service Update",
        "rollback": "Service Update",
        "ps": "Service View Tasks",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewServiceSerializer,
            "update": ServiceChangeSerializer,
            "partial_update": ServiceChangeSerializer,
            "scale": ScaleSerializer,
            "rollback": EmptySerializer,
            "ps": TaskSerializer,
        }.get(self.action, ServiceSerializer)

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        context = {**self.get_serializer_context(), "counts": task_counts(page)}
        return self.get_paginated_response(ServiceSerializer(page, many=True, context=context).data)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        row = self.get_object()
        return self.tagged(row, shown(row))

    @extend_schema(responses={201: ServiceSerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        spec = codec.decode(ServiceSpec, data["spec"])
        place = collections.resolve(data["collection"]) if "collection" in data else None
        row = actions.create_service(self.actor, spec, place)
        return self.tagged(row, shown(row), code=status.HTTP_201_CREATED, location=f"/api/v1/services/{row.pk}")

    @extend_schema(responses=ServiceSerializer)
    def update(self, request: Request, pk: str) -> Response:
        """Replace the whole spec."""
        row, data = self.get_object(), self.validated()
        if "spec" not in data:
            raise InvalidInput("spec: is required; PATCH changes a part of it", field="spec")
        return self._write(row, codec.decode(ServiceSpec, data["spec"]), data)

    @extend_schema(responses=ServiceSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a part of the spec by a merge patch, or move the service."""
        row, data = self.get_object(), self.validated()
        return self._write(row, codec.decode(ServiceSpec, merge(row.spec, data.get("spec", {}))), data)

    def _write(self, row: Service, spec: ServiceSpec, data: dict[str, Any]) -> Response:
        expected = self.expected()
        if "collection" in data:
            row = actions.move_service(self.actor, row, collections.resolve(data["collection"]), expected=expected)
            expected = row.version
        if "spec" in data or data.get("force") or data.get("refresh"):
            row = actions.update_service(
                self.actor,
                row,
                spec,
                expected=expected,
                force=data.get("force", False),
                refresh=data.get("refresh", False),
            )
        return self.tagged(row, shown(row))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Stop its tasks everywhere; the row goes with the last of them."""
        actions.remove_service(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=ServiceSerializer)
    @action(detail=True, methods=["post"])
    def scale(self, request: Request, pk: str) -> Response:
        """Another number of replicas, without touching the tasks that run. Needs no If-Match: it changes nothing else."""
        row = actions.scale(self.actor, self.get_object(), self.validated()["replicas"])
        return self.tagged(row, shown(row))

    @extend_schema(request=EmptySerializer, responses=ServiceSerializer)
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, pk: str) -> Response:
        """Return to the spec before the last update."""
        row = actions.roll_back(self.actor, self.get_object())
        return self.tagged(row, shown(row))

    @extend_schema(responses=TaskSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def ps(self, request: Request, pk: str) -> Response:
        """Its tasks, newest first, ended ones included."""
        tasks = Task.objects.filter(service=self.get_object()).select_related("service", "node")
        page = self.paginate_queryset(tasks.order_by("-created_at", "-pk"))
        return self.get_paginated_response(TaskSerializer(page, many=True).data)


class TaskFilter(Filters):
    service = filters.CharFilter(field_name="service_id")
    node = filters.CharFilter(field_name="node_id")
    live = filters.BooleanFilter(method="by_live", label="Wanted tasks only, or ended ones only.")
    observed = filters.CharFilter(method="by_observed", label="Name of a state.")

    def by_live(self, rows: QuerySet[Task], name: str, value: bool) -> QuerySet[Task]:
        return rows.filter(desired__lte=TaskState.RUNNING) if value else rows.filter(desired__gt=TaskState.RUNNING)

    def by_observed(self, rows: QuerySet[Task], name: str, value: str) -> QuerySet[Task]:
        try:
            return rows.filter(observed=TaskState[value.upper()])
        except KeyError:
            known = ", ".join(state.name.lower() for state in TaskState)
            raise InvalidInput(f"observed: {value[:40]!r} is no state; there are {known}", field="observed") from None


class Tasks(ModelRoutes):
    """Attempts to run a service on a node. They belong to their service: whoever may see its tasks sees them."""

    queryset = Task.objects.select_related("service__collection", "node")
    filterset_class = TaskFilter
    serializer_class = TaskSerializer
    operations = {"list": "Service View Tasks", "retrieve": "Service View Tasks"}

    def get_queryset(self) -> QuerySet[Task]:
        if getattr(self, "swagger_fake_view", False):
            return Task.objects.none()
        seen = access.visible(self.actor, Service.objects.all(), "Service View Tasks")
        return Task.objects.select_related("service__collection", "node").filter(service__in=seen)

    def require(self, target: Any = None, **options: Any) -> None:
        super().require(target.service if isinstance(target, Task) else target, **options)
