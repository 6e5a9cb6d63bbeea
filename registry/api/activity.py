"""/api/v1/repositories/{id}/activity: who did what there, when."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.pagination import LinkPagination
from controlplane.events.models import Event
from registry.api.scope import OfRepository
from registry.queries import activity


class ActivitySerializer(serializers.ModelSerializer[Event]):
    text = serializers.SerializerMethodField(help_text="what was done, in words")

    class Meta:
        model = Event
        fields = ["id", "at", "kind", "actor_kind", "actor_name", "text", "data"]
        read_only_fields = fields

    def get_text(self, event: Event) -> str:
        return activity.sentence(event)


class Activity(OfRepository):
    """Newest first. Pushes, deletes and changes for all who see the repository; the rest for who holds Repository Policy."""

    operations = {"get": "Repository View"}
    query = frozenset({"kind", "who"})
    serializer_class = ActivitySerializer
    queryset = Event.objects.none()
    ordering = ("-id",)

    pagination_class = LinkPagination

    @extend_schema(
        parameters=[
            OpenApiParameter("kind", str, description=f'{", ".join(activity.GROUPS)}, a kind, or a prefix: "tag."'),
            OpenApiParameter("who", str, description="the beginning of a name"),
        ],
        responses=ActivitySerializer(many=True),
    )
    def get(self, request: Request, pk: str) -> Response:
        rows = activity.of_repository(self.actor, self.repository())
        wanted = activity.narrowed(rows, request.query_params.get("kind", ""), request.query_params.get("who", ""))
        page = activity.named(self.paginate_queryset(wanted) or ())
        return self.get_paginated_response(self.get_serializer(page, many=True).data)
