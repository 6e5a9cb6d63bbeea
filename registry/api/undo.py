"""Below /api/v1/repositories/{id}: the time machine. And /api/v1/deleted-repositories."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput, NotFound
from agent.protocol.oci import Digest, check_tag
from controlplane.api import access
from controlplane.api.pagination import LinkPagination
from controlplane.api.views import ModelRoutes
from registry.actions import repositories, trash
from registry.api.robots_read import ForRobots
from registry.api.scope import OfRepository
from registry.models import Namespace, Repository, Trashed
from registry.queries import history
from registry.queries.access import owned_namespaces


class TrashedSerializer(serializers.ModelSerializer[Trashed]):
    size = serializers.IntegerField(source="manifest.total_size")
    media_type = serializers.CharField(source="manifest.media_type")

    class Meta:
        model = Trashed
        fields = ["digest", "media_type", "size", "tags", "deleted_at", "actor_name"]
        read_only_fields = fields


class DigestSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField(max_length=135)


class RestoredSerializer(serializers.Serializer[Any]):
    tags = serializers.ListField(child=serializers.CharField(), help_text="Those that name it again.")


class StateSerializer(serializers.Serializer[Any]):
    tag = serializers.CharField()
    digest = serializers.CharField()


class Trash(OfRepository):
    """Deleted manifests that can be brought back, newest first."""

    operations = {"get": "Repository View", "delete": "Repository Delete"}
    serializer_class = TrashedSerializer
    pagination_class = LinkPagination
    queryset = Trashed.objects.none()
    ordering = ("-deleted_at", "-id")

    @extend_schema(responses=TrashedSerializer(many=True))
    def get(self, request: Request, pk: str) -> Response:
        rows = Trashed.objects.filter(repository=self.repository(), deleted_at__gt=trash.window_start())
        found = rows.select_related("manifest").defer("manifest__content")
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(found), many=True).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: str) -> Response:
        """Forget them now: what nothing else needs goes at the next collection, and quotas are freed with it."""
        trash.forget_now(self.actor, self.repository())
        return Response(status=status.HTTP_204_NO_CONTENT)


class RestoreManifest(OfRepository):
    operations = {"post": "Repository Tag Delete"}
    serializer_class = DigestSerializer
    queryset = Trashed.objects.none()

    @extend_schema(responses=RestoredSerializer)
    def post(self, request: Request, pk: str) -> Response:
        """Undo the act that deleted the manifest, with what went with it and the tags whose names are free."""
        digest = str(Digest.parse(self.validated()["digest"]))
        return Response({"tags": trash.restore_manifest(self.actor, self.repository(), digest)})


class RestoreTag(OfRepository):
    operations = {"post": "Repository Push"}
    serializer_class = DigestSerializer
    queryset = Trashed.objects.none()

    @extend_schema(responses=StateSerializer)
    def post(self, request: Request, pk: str, tag: str) -> Response:
        """Point the tag at a digest that it had before, also when that was deleted within the undo window."""
        digest = str(Digest.parse(self.validated()["digest"]))
        trash.restore_tag(self.actor, self.repository(), check_tag(tag), digest)
        return Response({"tag": tag, "digest": digest})


class States(ForRobots, OfRepository):
    """What the tags named at a moment."""

    operations = {"get": "Repository View"}
    query = frozenset({"at"})
    serializer_class = StateSerializer

    @extend_schema(
        parameters=[OpenApiParameter("at", str, required=True, description="2026-03-01T12:00:00Z")],
        responses=StateSerializer(many=True),
    )
    def get(self, request: Request, pk: str) -> Response:
        row = self.repository()
        at = moment(request.query_params.get("at", ""))
        return Response([{"tag": tag, "digest": digest} for tag, digest in history.tags_at(row, at).items()])


def moment(text: str) -> Any:
    """An aware time. Raises InvalidInput."""
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None:
        raise InvalidInput("at is a moment like 2026-03-01T12:00:00Z", field="at")
    return at if timezone.is_aware(at) else timezone.make_aware(at)


class DeletedRepositorySerializer(serializers.ModelSerializer[Repository]):
    name = serializers.CharField(source="former_name")

    class Meta:
        model = Repository
        fields = ["id", "name", "visibility", "description", "deleted_at", "deleted_by"]
        read_only_fields = fields


class RestoredRepositorySerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    grants = serializers.IntegerField(help_text="How many of its grants stand again.")
    grants_left = serializers.IntegerField(
        help_text="How many do not: whom or what they were about is gone, or their folder was made anew by others."
    )


class DeletedRepositories(ModelRoutes):
    """Of the caller's own namespaces, within the undo window."""

    queryset = Repository.everything.filter(deleted_at__isnull=False).select_related("namespace", "collection")
    serializer_class = DeletedRepositorySerializer
    ordering: tuple[str, ...] = ("-deleted_at", "id")
    operations = {
        "list": "Repository Delete",
        "retrieve": "Repository Delete",
        "restore": "Repository Delete",
        "destroy": "Repository Delete",
    }

    def get_queryset(self) -> QuerySet[Repository]:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset.none()
        access.visible(self.actor, Repository.objects.none(), self.operation)  # what decides is the namespace
        own = owned_namespaces(self.actor, Namespace.objects.all()) if self.actor.in_scope(self.operation) else []
        return self.queryset.filter(namespace__in=own, deleted_at__gt=trash.window_start())

    def get_object(self) -> Repository:
        row = self.get_queryset().filter(pk=self.kwargs["pk"]).first()
        if row is None:
            raise NotFound("There is no such deleted repository in a namespace of yours.")
        return row

    @extend_schema(request=None, responses=RestoredRepositorySerializer)
    @action(detail=True, methods=["post"], pagination_class=None)
    def restore(self, request: Request, pk: str) -> Response:
        """Under its name, with all it held and the rights that were given on it."""
        row, back, left = repositories.restore_repository(self.actor, self.get_object().pk)
        return self.tagged(row, {"id": row.pk, "name": row.full_name, "grants": back, "grants_left": left})

    def destroy(self, request: Request, pk: str) -> Response:
        """Forget it now: there is no undo after it."""
        repositories.forget_repository(self.actor, self.get_object().pk)
        return Response(status=status.HTTP_204_NO_CONTENT)
