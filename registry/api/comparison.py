"""/api/v1/repositories/{id}/compare and .../running/{digest}: two images side by side, and where one runs."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from registry.api.robots_read import ForRobots
from registry.api.scope import OfRepository
from registry.api.serializers import ImageLayerSerializer
from registry.compare import compare
from registry.details import describe, find_manifest, indexes_of
from registry.running import running


class HeadSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    kind = serializers.CharField()
    total_size = serializers.IntegerField()
    platforms = serializers.ListField(child=serializers.CharField())
    created = serializers.CharField(allow_null=True)
    pushed_at = serializers.DateTimeField()
    pushed_by = serializers.CharField(allow_blank=True)
    tags = serializers.ListField(child=serializers.CharField())


class FieldSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    before = serializers.CharField(allow_null=True)
    after = serializers.CharField(allow_null=True)


class ComparisonSerializer(serializers.Serializer[Any]):
    before = HeadSerializer()
    after = HeadSerializer()
    same = serializers.BooleanField()
    size_change = serializers.IntegerField()
    to_pull = serializers.IntegerField(help_text="bytes of the layers that who has `before` must pull for `after`")
    kept = ImageLayerSerializer(many=True)
    added = ImageLayerSerializer(many=True)
    removed = ImageLayerSerializer(many=True)
    config = FieldSerializer(many=True)


class Compare(ForRobots, OfRepository):
    operations = {"get": "Repository Pull"}
    serializer_class = ComparisonSerializer
    query = frozenset({"before", "after"})

    @extend_schema(
        parameters=[OpenApiParameter("before", str, required=True), OpenApiParameter("after", str, required=True)],
        responses=ComparisonSerializer,
    )
    def get(self, request: Request, pk: str) -> Response:
        """Two tags or digests: layers kept, added and removed, and what differs in the configuration."""
        repository, query = self.repository(), request.query_params
        both = [describe(find_manifest(repository, query.get(side, ""))) for side in ("before", "after")]
        return Response(ComparisonSerializer(compare(*both)).data)


class PlaceSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField()
    id = serializers.CharField()
    name = serializers.CharField()
    node = serializers.CharField(allow_blank=True)
    state = serializers.CharField()
    url = serializers.CharField(help_text="the page in the console")


class RunningSerializer(serializers.Serializer[Any]):
    places = PlaceSerializer(many=True)
    hidden = serializers.IntegerField(help_text="how much more runs it that you may not see")


class Running(OfRepository):
    operations = {"get": "Repository View"}
    serializer_class = RunningSerializer

    @extend_schema(responses=RunningSerializer)
    def get(self, request: Request, pk: str, target: str) -> Response:
        """The tasks and containers that run this tag or digest now, also as a part of an index."""
        row = find_manifest(self.repository(), target)
        found, hidden = running(self.actor, [row.digest, *indexes_of(row)])
        return Response(RunningSerializer({"places": found, "hidden": hidden}).data)
