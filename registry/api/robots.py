"""/api/v1/robots: accounts of programs."""

from __future__ import annotations

from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import ModelRoutes
from registry.actions import robots as actions
from registry.models import Robot
from registry.queries.robots import ACTIONS


class RobotRightSerializer(serializers.Serializer[Any]):
    repositories = serializers.CharField(max_length=255, help_text="a name, or a pattern: team/*")
    actions = serializers.ListField(child=serializers.ChoiceField(choices=list(ACTIONS)), min_length=1)


class RobotChangeSerializer(serializers.Serializer[Any]):
    description = serializers.CharField(max_length=200, required=False, allow_blank=True)
    rights = RobotRightSerializer(many=True, required=False)
    cidrs = serializers.ListField(child=serializers.CharField(max_length=50), required=False, max_length=50)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    disabled = serializers.BooleanField(required=False)


class NewRobotSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    namespace = serializers.CharField(max_length=150, required=False, allow_blank=True, help_text="empty: the whole registry's")
    description = serializers.CharField(max_length=200, required=False, allow_blank=True)
    rights = RobotRightSerializer(many=True)
    cidrs = serializers.ListField(child=serializers.CharField(max_length=50), required=False, max_length=50)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class RobotSerializer(serializers.ModelSerializer[Robot]):
    name = serializers.CharField(source="full_name", help_text="what it logs in as")
    namespace = serializers.CharField(source="namespace.name", default="")
    rights = RobotRightSerializer(many=True)
    usable = serializers.BooleanField(help_text="neither disabled nor expired")

    class Meta:
        model = Robot
        fields = [
            "id",
            "name",
            "namespace",
            "description",
            "rights",
            "cidrs",
            "expires_at",
            "disabled",
            "usable",
            "created_by",
            "secret_made_at",
            "last_used_at",
            "last_used_address",
            "version",
            "created_at",
            "updated_at",
        ]
        read_only_fields = fields


class RobotSecretSerializer(RobotSerializer):
    secret = serializers.CharField(help_text="never shown again")

    class Meta(RobotSerializer.Meta):
        fields = [*RobotSerializer.Meta.fields, "secret"]
        read_only_fields = fields


class RobotFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    name = filters.CharFilter(field_name="full_name")
    namespace = filters.CharFilter(field_name="namespace__name")
    disabled = filters.BooleanFilter()


class Robots(ModelRoutes):
    """Whoever looks after a namespace makes robots for it, which may no more than their maker; administrators make any."""

    queryset = Robot.objects.select_related("namespace", "collection")
    filterset_class = RobotFilter
    ordering = ("full_name",)
    secret_answer = True
    operations = {
        "list": "Robot View",
        "retrieve": "Robot View",
        "create": "Robot Create",
        "partial_update": "Robot Update",
        "destroy": "Robot Delete",
        "rotate": "Robot Update",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewRobotSerializer,
            "partial_update": RobotChangeSerializer,
            "rotate": RobotSecretSerializer,
        }.get(self.action, RobotSerializer)

    @extend_schema(responses={201: RobotSecretSerializer})
    def create(self, request: Request) -> Response:
        """The answer holds the secret, once."""
        data = self.validated()
        # Whether the caller may is decided on the namespace, which may have no row yet: the action asks.
        row, secret = actions.create_robot(self.actor, data.pop("name"), **data)
        body = {**RobotSerializer(row).data, "secret": secret}
        return self.tagged(row, body, code=status.HTTP_201_CREATED, location=f"/api/v1/robots/{row.pk}")

    @extend_schema(responses=RobotSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = actions.update_robot(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, RobotSerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        actions.delete_robot(self.actor, self.get_object(), self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=RobotSecretSerializer)
    @action(detail=True, methods=["post"], filterset_class=None)
    def rotate(self, request: Request, pk: str) -> Response:
        """A new secret, shown once; the old one ends at once."""
        row = self.get_object()
        secret = actions.rotate_robot(self.actor, row)
        return self.tagged(row, {**RobotSerializer(row).data, "secret": secret})
