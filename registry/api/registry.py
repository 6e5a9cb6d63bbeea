"""/api/v1/registry: what is stored for whom, and the switches of the whole registry."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput
from controlplane.api import access
from controlplane.api.pagination import LinkPagination
from controlplane.api.views import ApiView
from registry.actions.switches import switch
from registry.models import Repository, Usage
from registry.queries import switches


class UsageSerializer(serializers.ModelSerializer[Usage]):
    shared = serializers.IntegerField(help_text="of stored: what others of its kind hold too")

    class Meta:
        model = Usage
        fields = ["scope", "name", "repositories", "blobs", "logical", "stored", "unique", "shared", "at"]
        read_only_fields = fields


class UsageRows(ApiView):
    """As last counted, the largest first. Administrators see every scope, others the repositories they may see."""

    operations = {"get": "Repository View"}
    query = frozenset({"scope"})
    serializer_class = UsageSerializer
    queryset = Usage.objects.none()
    pagination_class = LinkPagination
    ordering = ("-stored", "name")

    @extend_schema(
        operation_id="registry_usage_list",
        parameters=[OpenApiParameter("scope", str, enum=Usage.Scope.values, description="default: repository")],
        responses=UsageSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        scope = request.query_params.get("scope", Usage.Scope.REPOSITORY)
        if scope not in Usage.Scope.values:
            raise InvalidInput(f"scope is one of {', '.join(Usage.Scope.values)}.")
        rows = Usage.objects.filter(scope=scope)
        if scope == Usage.Scope.REPOSITORY:
            seen = access.visible(self.actor, Repository.objects.all())
            rows = rows if self.actor.is_admin else rows.filter(name__in=seen.values("full_name"))
        else:
            self.require(operation="Registry View")
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(rows), many=True).data)


class SwitchesSerializer(serializers.Serializer[Any]):
    create_on_push = serializers.BooleanField(required=False, help_text=switches.SWITCHES["create_on_push"][1])


class Switches(ApiView):
    """Switches that administrators change while the registry runs."""

    operations = {"get": "Registry View", "patch": "Registry Update"}
    serializer_class = SwitchesSerializer
    pagination_class = None
    queryset = Usage.objects.none()

    def _answer(self) -> Response:
        return Response({name: switches.value(name) for name in switches.SWITCHES})

    @extend_schema(operation_id="registry_settings_retrieve", responses=SwitchesSerializer)
    def get(self, request: Request) -> Response:
        self.require()
        return self._answer()

    @extend_schema(responses=SwitchesSerializer)
    def patch(self, request: Request) -> Response:
        self.require()
        switch(self.actor, **self.validated())
        return self._answer()
