"""/api/v1/mirrors: repositories kept equal with repositories elsewhere."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane import rbac
from controlplane.api.views import ModelRoutes
from registry.actions import mirrors
from registry.models import Mirror, MirroredTag, Repository
from registry.queries.webhooks import OPERATION


class RuleSerializer(serializers.Serializer[Any]):
    field = serializers.CharField(max_length=40)
    operator = serializers.CharField(max_length=40)
    values = serializers.ListField(child=serializers.CharField(max_length=255))


class MirrorSerializer(serializers.ModelSerializer[Mirror]):
    repository = serializers.CharField(source="repository.full_name")
    rules = RuleSerializer(many=True)
    has_secret = serializers.SerializerMethodField()
    result = serializers.DictField()

    class Meta:
        model = Mirror
        fields = [
            *("id", "repository", "direction", "url", "remote_name", "username", "has_secret", "tls_verify", "tls_ca", "rules"),
            *("enabled", "on_event", "cron", "next_due", "speed", "deletions", "job_id", "ran_at", "result", "error"),
            *("created_by", "version", "created_at", "updated_at"),
        ]
        read_only_fields = fields

    def get_has_secret(self, row: Mirror) -> bool:
        return bool(row.sealed_secret)


class _Fields(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=255, required=False, allow_blank=True)
    secret = serializers.CharField(
        max_length=4096,
        required=False,
        allow_blank=True,
        write_only=True,
        trim_whitespace=False,
        help_text='Password or token; a refresh token with the user name "<token>".',
    )
    tls_verify = serializers.BooleanField(required=False)
    tls_ca = serializers.CharField(max_length=64 << 10, required=False, allow_blank=True, help_text="PEM")
    rules = RuleSerializer(many=True, required=False, help_text="All must be met; none: every tag.")
    enabled = serializers.BooleanField(required=False)
    on_event = serializers.BooleanField(required=False, help_text="push: after each push here.")
    cron = serializers.CharField(max_length=100, required=False, allow_blank=True, help_text="6 fields, seconds first, UTC.")
    speed = serializers.IntegerField(min_value=0, required=False, help_text="kB/s; 0: as fast as it goes.")
    deletions = serializers.BooleanField(required=False)


class MirrorChangeSerializer(_Fields):
    url = serializers.CharField(max_length=300, required=False)
    remote_name = serializers.CharField(max_length=255, required=False)


class NewMirrorSerializer(_Fields):
    repository = serializers.CharField(max_length=255)
    direction = serializers.ChoiceField(choices=Mirror.Direction.choices)
    url = serializers.CharField(max_length=300)
    remote_name = serializers.CharField(max_length=255)


class ConnectionSerializer(serializers.Serializer[Any]):
    """What is to be tried; with a mirror's id its stored secret is used where none is given."""

    mirror = serializers.CharField(max_length=25, required=False)
    direction = serializers.ChoiceField(choices=Mirror.Direction.choices)
    url = serializers.CharField(max_length=300)
    remote_name = serializers.CharField(max_length=255)
    username = serializers.CharField(max_length=255, required=False, allow_blank=True)
    secret = serializers.CharField(max_length=4096, required=False, allow_blank=True, write_only=True, trim_whitespace=False)
    tls_verify = serializers.BooleanField(required=False)
    tls_ca = serializers.CharField(max_length=64 << 10, required=False, allow_blank=True)


class MirrorStartedSerializer(serializers.Serializer[Any]):
    job = serializers.CharField()


class MirroredTagSerializer(serializers.ModelSerializer[MirroredTag]):
    class Meta:
        model = MirroredTag
        fields = ["name", "digest", "at"]
        read_only_fields = fields


class MirrorFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    repository = filters.CharFilter(field_name="repository__full_name")
    direction = filters.ChoiceFilter(choices=Mirror.Direction.choices)
    enabled = filters.BooleanFilter()


class Mirrors(ModelRoutes):
    """For those who may set the policies of a repository."""

    queryset = Mirror.objects.select_related("repository__collection", "repository__namespace")
    filterset_class = MirrorFilter
    operations = dict.fromkeys(("list", "retrieve", "create", "partial_update", "destroy", "run", "tags", "check"), OPERATION)

    def get_serializer_class(self) -> Any:
        return {
            "create": NewMirrorSerializer,
            "partial_update": MirrorChangeSerializer,
            "check": ConnectionSerializer,
            "run": MirrorStartedSerializer,
            "tags": MirroredTagSerializer,
        }.get(self.action, MirrorSerializer)

    def get_queryset(self) -> QuerySet[Mirror]:
        if getattr(self, "swagger_fake_view", False):
            return Mirror.objects.none()
        homes = rbac.visible(self.actor, Repository.objects.all(), OPERATION)
        rows: QuerySet[Mirror] = self.queryset.filter(repository__in=homes.values("pk"))
        return rows

    def get_object(self) -> Mirror:
        # The repository decides, not the mirror itself: it is no resource of its own.
        row: Mirror = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        rbac.require(self.actor, OPERATION, row.repository)
        return row

    @extend_schema(responses={201: MirrorSerializer})
    def create(self, request: Request) -> Response:
        row = mirrors.create_mirror(self.actor, **self.validated())
        return self.tagged(row, MirrorSerializer(row).data, code=status.HTTP_201_CREATED, location=f"/api/v1/mirrors/{row.pk}")

    @extend_schema(responses=MirrorSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = mirrors.update_mirror(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, MirrorSerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        mirrors.delete_mirror(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses={202: MirrorStartedSerializer})
    @action(detail=True, methods=["post"])
    def run(self, request: Request, pk: str) -> Response:
        """Compare both sides now; the job shows progress and log."""
        job = mirrors.run_now(self.actor, self.get_object())
        return Response({"job": job.pk}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=MirroredTagSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def tags(self, request: Request, pk: str) -> Response:
        """What was mirrored last, by name."""
        self.ordering = ("name", "pk")
        page = self.paginate_queryset(MirroredTag.objects.filter(mirror=self.get_object()))
        return self.get_paginated_response(MirroredTagSerializer(page, many=True).data)

    @extend_schema(request=ConnectionSerializer, responses={204: None})
    @action(detail=False, methods=["post"])
    def check(self, request: Request) -> Response:
        """Does the registry answer, and let us pull or push there? Asks it, and keeps nothing."""
        data = self.validated()
        stored = data.pop("mirror", "")
        row = get_object_or_404(self.get_queryset(), pk=stored) if stored else None
        mirrors.require_anywhere(self.actor)
        mirrors.try_connection(self.actor, mirror=row, **data)
        return Response(status=status.HTTP_204_NO_CONTENT)
