"""/api/v1/proxies: namespaces that show what another registry has."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import ModelRoutes
from registry.actions import proxies
from registry.models import Proxy, Repository


class ProxySerializer(serializers.ModelSerializer[Proxy]):
    namespace = serializers.CharField(source="namespace.name")
    has_secret = serializers.SerializerMethodField()

    class Meta:
        model = Proxy
        fields = [
            *("id", "namespace", "url", "prefix", "username", "has_secret", "tls_verify", "tls_ca", "visibility", "fresh"),
            *("keep_days", "enabled", "created_by", "version", "created_at", "updated_at"),
        ]
        read_only_fields = fields

    def get_has_secret(self, row: Proxy) -> bool:
        return bool(row.sealed_secret)


class ProxyChangeSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=255, required=False, allow_blank=True)
    secret = serializers.CharField(max_length=4096, required=False, allow_blank=True, write_only=True, trim_whitespace=False)
    tls_verify = serializers.BooleanField(required=False)
    tls_ca = serializers.CharField(max_length=64 << 10, required=False, allow_blank=True, help_text="PEM")
    fresh = serializers.IntegerField(
        min_value=0, max_value=86_400 * 30, required=False, help_text="Seconds for which a tag is not asked about again."
    )
    keep_days = serializers.IntegerField(min_value=0, max_value=3650, required=False, help_text="After the last pull; 0: ever.")
    enabled = serializers.BooleanField(required=False)


class NewProxySerializer(ProxyChangeSerializer):
    namespace = serializers.CharField(max_length=150)
    url = serializers.CharField(max_length=300)
    prefix = serializers.CharField(max_length=255, required=False, allow_blank=True, help_text="Of names there.")
    visibility = serializers.ChoiceField(choices=Repository.Visibility.choices, required=False)


class Proxies(ModelRoutes):
    """For administrators."""

    queryset = Proxy.objects.select_related("namespace__collection")
    operations = dict.fromkeys(("list", "retrieve", "create", "partial_update", "destroy"), proxies.OPERATION)

    def get_serializer_class(self) -> Any:
        return {"create": NewProxySerializer, "partial_update": ProxyChangeSerializer}.get(self.action, ProxySerializer)

    def get_queryset(self) -> QuerySet[Proxy]:
        if getattr(self, "swagger_fake_view", False):
            return Proxy.objects.none()
        self.require()
        rows: QuerySet[Proxy] = self.queryset.all()
        return rows

    def get_object(self) -> Proxy:
        row: Proxy = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        return row

    @extend_schema(responses={201: ProxySerializer})
    def create(self, request: Request) -> Response:
        row = proxies.create_proxy(self.actor, **self.validated())
        return self.tagged(row, ProxySerializer(row).data, code=status.HTTP_201_CREATED, location=f"/api/v1/proxies/{row.pk}")

    @extend_schema(responses=ProxySerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = proxies.update_proxy(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, ProxySerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        proxies.delete_proxy(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)
