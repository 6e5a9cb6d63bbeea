"""POST /api/v1/streams: a ticket for one byte stream."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import NotFound
from controlplane.api.access import AUTHENTICATED
from controlplane.api.views import ApiView
from controlplane.rbac import visible
from nodes.actions.tickets import ARGS, issue_ticket
from nodes.models import Container, Service


class StreamSerializer(serializers.Serializer[Any]):
    target = serializers.ChoiceField(choices=sorted(ARGS))
    container = serializers.CharField(required=False, help_text="id, id prefix or name; or name a service for its logs")
    service = serializers.CharField(required=False, help_text="id or name")
    args = serializers.DictField(required=False, help_text="what the target takes: see docs/howto/streams.md")


class TicketSerializer(serializers.Serializer[Any]):
    ticket = serializers.CharField(help_text="first frame of the websocket at /ws/stream; good once, for 30 s")


class Streams(ApiView):
    """The right asked is that of the stream's target (Container Exec, Container Logs, Service Logs …), on the object named."""

    operations = {"post": AUTHENTICATED}
    serializer_class = StreamSerializer
    secret_answer = True
    pagination_class = None

    @extend_schema(request=StreamSerializer, responses={201: TicketSerializer})
    def post(self, request: Request) -> Response:
        wanted = self.validated()
        container = self._find(Container.objects.select_related("collection"), wanted.get("container"))
        service = self._find(Service.objects.select_related("collection"), wanted.get("service"))
        ticket = issue_ticket(self.actor, wanted["target"], wanted.get("args", {}), container=container, service=service)
        return Response({"ticket": ticket}, status=status.HTTP_201_CREATED)

    def _find(self, queryset: Any, text: str | None) -> Any:
        if not text:
            return None
        found = list(visible(self.actor, queryset.called(text))[:2])
        if not found:
            raise NotFound(f"there is no {queryset.model.__name__.lower()} {text[:80]!r}, or you may not see it")
        return found[0]
