"""/api/v1/cluster/brake: the mass-failure brake."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import ApiView
from nodes import actions
from nodes.models import Node, Watch


class BrakeSerializer(serializers.Serializer[Any]):
    engaged_at = serializers.DateTimeField(allow_null=True)
    released_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    looked_at = serializers.DateTimeField(allow_null=True, help_text="When the nodes were last judged.")


class Brake(ApiView):
    """While it is on, silent nodes are unknown and nothing is rescheduled."""

    operations = {"get": "Node View", "delete": "Node Update"}
    serializer_class = BrakeSerializer
    pagination_class = None

    def get(self, request: Request) -> Response:
        self.require()
        watch = Watch.objects.filter(pk=1).first() or Watch()
        return Response(
            {
                "engaged_at": watch.brake_engaged_at,
                "released_at": watch.brake_released_at,
                "reason": watch.brake_reason,
                "looked_at": watch.looked_at,
            }
        )

    @extend_schema(responses={204: None})
    def delete(self, request: Request) -> Response:
        """Let go early: nodes that are still silent go down."""
        self.require(Node)
        actions.release_brake(self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)
