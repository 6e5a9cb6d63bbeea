"""/api/v1/collections, roles, grants, operations and access/explain."""

from __future__ import annotations

from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.api import access
from controlplane.api.access import AUTHENTICATED
from controlplane.api.actor import Actor, actor_of_user
from controlplane.api.filters import Filters
from controlplane.api.views import ApiView, ModelRoutes
from controlplane.rbac import actions, collections
from controlplane.rbac.api.serializers import (
    CollectionChangeSerializer,
    CollectionSerializer,
    DecisionSerializer,
    GrantSerializer,
    NewCollectionSerializer,
    NewGrantSerializer,
    NewRoleSerializer,
    OperationSerializer,
    RoleChangeSerializer,
    RoleSerializer,
    RoleVersionSerializer,
)
from controlplane.rbac.models import Collection, Grant, Role, RoleVersion
from controlplane.users.models import User


class CollectionFilter(Filters):
    path = filters.CharFilter(lookup_expr="iexact")
    below = filters.CharFilter(field_name="path", lookup_expr="istartswith")


class Collections(ModelRoutes):
    queryset = Collection.objects.all()
    filterset_class = CollectionFilter
    ordering = ("path",)
    operations = {
        "list": "Collection View",
        "retrieve": "Collection View",
        "create": "Collection Create",
        "partial_update": "Collection Update",
        "destroy": "Collection Delete",
    }

    def get_serializer_class(self) -> Any:
        return {"create": NewCollectionSerializer, "partial_update": CollectionChangeSerializer}.get(
            self.action, CollectionSerializer
        )

    @extend_schema(responses={201: CollectionSerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        parent = collections.resolve(data["parent"])
        self.require(parent)
        row = actions.create_collection(self.actor, parent, data["name"])
        return self.tagged(
            row, CollectionSerializer(row).data, code=status.HTTP_201_CREATED, location=f"/api/v1/collections/{row.pk}"
        )

    @extend_schema(responses=CollectionSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = actions.rename_collection(self.actor, self.get_object(), self.validated()["name"], expected=self.expected())
        return self.tagged(row, CollectionSerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        actions.delete_collection(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Roles(ModelRoutes):
    queryset = Role.objects.all()
    ordering = ("name",)
    operations = {
        "list": "Role View",
        "retrieve": "Role View",
        "create": "Role Create",
        "partial_update": "Role Update",
        "destroy": "Role Delete",
        "versions": "Role View",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewRoleSerializer,
            "partial_update": RoleChangeSerializer,
            "versions": RoleVersionSerializer,
        }.get(self.action, RoleSerializer)

    @extend_schema(responses={201: RoleSerializer})
    def create(self, request: Request) -> Response:
        self.require()
        data = self.validated()
        row = actions.create_role(self.actor, data["name"], data["operations"], description=data.get("description", ""))
        return self.tagged(row, RoleSerializer(row).data, code=status.HTTP_201_CREATED, location=f"/api/v1/roles/{row.pk}")

    @extend_schema(responses=RoleSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = actions.update_role(self.actor, self.get_object(), expected=self.expected(), **self.validated())
        return self.tagged(row, RoleSerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        actions.delete_role(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=RoleVersionSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None)
    def versions(self, request: Request, pk: str) -> Response:
        """What the role allowed before each edit, newest first."""
        rows = RoleVersion.objects.filter(role=self.get_object()).order_by("-number")[:200]
        return Response(RoleVersionSerializer(rows, many=True).data)


class GrantFilter(Filters):
    role = filters.CharFilter(field_name="role__name")
    collection = filters.CharFilter(field_name="collection__path", lookup_expr="iexact")

    class Meta:
        model = Grant
        fields = ["subject_kind", "subject_id"]


class Grants(ModelRoutes):
    queryset = Grant.objects.select_related("role", "collection")
    filterset_class = GrantFilter
    operations = {"list": "Grant View", "retrieve": "Grant View", "create": "Grant Create", "destroy": "Grant Delete"}

    def get_serializer_class(self) -> Any:
        return NewGrantSerializer if self.action == "create" else GrantSerializer

    @extend_schema(responses={201: GrantSerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        collection = collections.resolve(data["collection"])
        self.require(collection)
        role = Role.objects.filter(name=data["role"]).first()
        if role is None:
            raise NotFound(f"There is no role {data['role']}.")
        row = actions.create_grant(self.actor, data["subject_kind"], data["subject_id"], role, collection)
        return self.tagged(row, GrantSerializer(row).data, code=status.HTTP_201_CREATED, location=f"/api/v1/grants/{row.pk}")

    def destroy(self, request: Request, pk: str) -> Response:
        actions.delete_grant(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Operations(ApiView):
    """The catalogue: every operation and its gates."""

    operations = {"get": AUTHENTICATED}
    pagination_class = None
    serializer_class = OperationSerializer
    queryset = Role.objects.none()

    @extend_schema(responses=OperationSerializer(many=True))
    def get(self, request: Request) -> Response:
        rows = [
            {
                "type": resource.name,
                "operation": f"{resource.name} {verb}",
                "gates": list(resource.gates.get(verb, ())),
                "admin_only": resource.admin_only,
            }
            for _, resource in sorted(access.catalogue().items())
            for verb in resource.operations
        ]
        return Response(rows)


class Explain(ApiView):
    """May somebody do something somewhere, and why? About oneself everybody may ask; about others administrators."""

    operations = {"get": AUTHENTICATED}
    query = frozenset({"operation", "collection", "user", "gate"})
    pagination_class = None
    serializer_class = DecisionSerializer

    @extend_schema(
        parameters=[
            OpenApiParameter("operation", str, required=True, description='"Service Create"'),
            OpenApiParameter("collection", str, description='A path, default "/".'),
            OpenApiParameter("user", str, description="A user's name, default the caller."),
            OpenApiParameter("gate", str, many=True, description="Gated parameters that would be used."),
        ]
    )
    def get(self, request: Request) -> Response:
        operation = request.query_params.get("operation", "")
        resource, verb = access.split(operation)
        gates = frozenset(request.query_params.getlist("gate"))
        if unknown := gates - set(resource.gates.get(verb, ())):
            raise InvalidInput(f"{operation} has no gates named {', '.join(sorted(unknown))}.")
        subject = self._subject(request.query_params.get("user"))
        decision = access.explain(
            subject, operation, self._collection(request.query_params.get("collection", "/"), subject), gates
        )
        return Response(DecisionSerializer(decision).data)

    def _subject(self, name: str | None) -> Actor:
        if name is None or name.lower() == self.actor.name:
            return self.actor
        self.require(operation="Access Explain Others")
        user = User.objects.filter(username=name.lower()).first()
        if user is None:
            raise NotFound(f"There is no user {name}.")
        return actor_of_user(user)

    def _collection(self, path: str, subject: Actor) -> Collection:
        """The collection itself, or for a caller who may not see it the root: where it is, is none of their business."""
        row = collections.resolve(path)
        if row.path != collections.ROOT and not access.visible(self.actor, Collection.objects.filter(pk=row.pk)).exists():
            raise NotFound(f"There is no collection {path}, or you may not see it.")
        return row
