"""/api/v1/quotas: how many bytes a namespace may hold. Set by administrators, seen by whose namespace it is."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.api.views import ApiView
from registry.actions import quotas
from registry.models import Namespace, Quota, Repository
from registry.queries.access import owned_namespaces


class QuotaSerializer(serializers.ModelSerializer[Quota]):
    namespace = serializers.CharField(source="namespace.name")

    class Meta:
        model = Quota
        fields = ["namespace", "limit", "used", "reserved", "set_by", "counted_at"]
        read_only_fields = fields


class LimitSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(min_value=0, max_value=quotas.MAX_LIMIT, help_text="Bytes; each blob counts once.")


class Quotas(ApiView):
    operations = {"get": "Repository View"}
    serializer_class = QuotaSerializer
    queryset = Quota.objects.none()
    ordering = ("namespace__name",)

    @extend_schema(responses=QuotaSerializer(many=True))
    def get(self, request: Request) -> Response:
        access.visible(self.actor, Repository.objects.none(), self.operation)
        own = owned_namespaces(self.actor, Namespace.objects.all())
        rows = Quota.objects.select_related("namespace").filter(namespace__in=own)
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(rows), many=True).data)


class OneQuota(ApiView):
    operations = {"get": "Repository View", "put": "Registry Update", "delete": "Registry Update"}
    serializer_class = LimitSerializer
    queryset = Quota.objects.none()
    pagination_class = None

    @extend_schema(operation_id="quota_retrieve", responses=QuotaSerializer)
    def get(self, request: Request, namespace: str) -> Response:
        access.visible(self.actor, Repository.objects.none(), self.operation)
        own = owned_namespaces(self.actor, Namespace.objects.filter(name=namespace))
        row = Quota.objects.select_related("namespace").filter(namespace__in=own).first()
        if row is None:
            raise NotFound("This namespace has no quota, or is none of yours.")
        return Response(QuotaSerializer(row).data)

    @extend_schema(responses=QuotaSerializer)
    def put(self, request: Request, namespace: str) -> Response:
        """Bytes that the namespace holds already are counted at once."""
        self.require()
        return Response(QuotaSerializer(quotas.set_quota(self.actor, namespace, **self.validated())).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, namespace: str) -> Response:
        self.require()
        quotas.remove_quota(self.actor, namespace)
        return Response(status=status.HTTP_204_NO_CONTENT)
