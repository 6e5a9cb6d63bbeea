"""/api/v1/registry/read-only."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import AUTHENTICATED, ApiView
from registry.actions import readonly
from registry.models import ReadOnly


class ReadOnlySerializer(serializers.Serializer[Any]):
    enabled = serializers.BooleanField(read_only=True)
    reason = serializers.CharField(max_length=500, help_text="What refused pushers read.")
    since = serializers.DateTimeField(read_only=True, allow_null=True)
    by = serializers.CharField(read_only=True)


class Switch(ApiView):
    """Pushes and deletes are refused with the reason; pulls and garbage collection go on."""

    operations = {"get": AUTHENTICATED, "put": "Registry Update", "delete": "Registry Update"}
    serializer_class = ReadOnlySerializer
    queryset = ReadOnly.objects.none()
    pagination_class = None

    @extend_schema(operation_id="registry_read_only_retrieve", responses=ReadOnlySerializer)
    def get(self, request: Request) -> Response:
        return Response(_shown(ReadOnly.objects.first()))

    @extend_schema(responses=ReadOnlySerializer)
    def put(self, request: Request) -> Response:
        self.require()
        return Response(_shown(readonly.enable(self.actor, self.validated()["reason"])))

    @extend_schema(responses={204: None})
    def delete(self, request: Request) -> Response:
        """Take pushes and deletes again."""
        self.require()
        readonly.disable(self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


def _shown(row: ReadOnly | None) -> dict[str, Any]:
    row = row or ReadOnly(pk=0)
    return {"enabled": row.pk == 1, "reason": row.reason, "since": row.since, "by": row.by}
