"""/api/v1/schema and /api/v1/health: public, and without anything to learn about the cluster's content."""

from __future__ import annotations

from typing import Any

from django.db import connection
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.access import PUBLIC
from controlplane.api.views import ApiView


class SchemaDocument(SpectacularAPIView):
    """This interface as an OpenAPI 3.1 document."""

    operations = {"get": PUBLIC}
    authentication_classes = ()
    renderer_classes = [OpenApiYamlRenderer, OpenApiJsonRenderer]


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()


class Health(ApiView):
    """200 while this process answers and reaches its database: for load balancers and the launcher."""

    operations = {"get": PUBLIC}
    authentication_classes = ()
    throttle_classes = ()
    pagination_class = None
    serializer_class = HealthSerializer

    @extend_schema(auth=[])
    def get(self, request: Request) -> Response:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        return Response({"status": "ok"})
