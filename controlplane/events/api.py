"""/api/v1/events: a list, or with Accept: text/event-stream or application/x-ndjson a stream that does not end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput
from controlplane.api import access
from controlplane.api.actor import Actor
from controlplane.api.views import ApiView
from controlplane.events import live
from controlplane.events.models import Event
from controlplane.events.verify import verify

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


class EventSerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        fields = ["id", "at", "kind", "actor_kind", "actor_id", "actor_name", "target", "collection_path", "data", "hash"]
        read_only_fields = fields


class _AnyOf(BaseContentNegotiation):
    """The view looks at Accept itself: streams have no renderer."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0] if parsers else None

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class Events(ApiView):
    """What happened, oldest first. `since` is the number of the last event you know: 410 when newer ones have been compacted."""

    operations = {"get": "Event View"}
    query = frozenset({"since", "kind", "target", "stream"})
    content_negotiation_class = _AnyOf
    pagination_class = None
    serializer_class = EventSerializer
    queryset = Event.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("since", int, description="Events after this number; default: the newest 50."),
            OpenApiParameter("limit", int, description="At most 500."),
            OpenApiParameter("kind", str, description='A kind, or a prefix with a dot at its end: "service."'),
            OpenApiParameter("target", str, description='"service/<id>"'),
            OpenApiParameter(
                "stream", str, enum=["sse", "ndjson"], description="Go on for ever; the Accept header does the same."
            ),
        ],
        responses=EventSerializer(many=True),
    )
    def get(self, request: Request) -> Any:
        wanted = self._wanted(request)
        if "since" not in request.query_params:
            start = live.head() if wanted else None
        else:
            start = _number(request, "since", 0, 1 << 62)
            live.since(self.actor, start, 1)  # 410 and 400 before a stream begins
        if wanted:
            return self._stream(wanted, start or 0)
        return self._list(request, start)

    def _wanted(self, request: Request) -> str | None:
        accept = request.headers.get("Accept", "")
        named = {"sse": SSE, "ndjson": NDJSON}.get(request.query_params.get("stream", ""))
        return named or next((kind for kind in (SSE, NDJSON) if kind in accept), None)

    def _list(self, request: Request, start: int | None) -> Response:
        limit = _number(request, "limit", 50, 500)
        rows = access.visible(self.actor, Event.objects.all())
        kind, target = request.query_params.get("kind"), request.query_params.get("target")
        if kind:
            rows = rows.filter(kind__startswith=kind) if kind.endswith(".") else rows.filter(kind=kind)
        if target:
            rows = rows.filter(target=target)
        if start is None:
            found = list(rows.order_by("-id")[:limit])[::-1]
        else:
            found = list(rows.filter(id__gt=start).order_by("id")[:limit])
        headers = {}
        if found and len(found) == limit:
            query = request.query_params.copy()
            query["since"] = str(found[-1].id)
            headers["Link"] = f'</api/v1/events?{query.urlencode()}>; rel="next"'
        return Response(EventSerializer(found, many=True).data, headers=headers or None)

    def _stream(self, kind: str, start: int) -> StreamingHttpResponse:
        answer = StreamingHttpResponse(stream(self.actor, start, kind), content_type=kind)
        answer["Cache-Control"] = "no-store"
        answer["X-Accel-Buffering"] = "no"
        return answer


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or len(text) > 19:
        raise InvalidInput(f"{name} must be a whole number from 0 to {most}.")
    return min(int(text), most)


async def stream(actor: Actor, start: int, kind: str) -> AsyncIterator[bytes]:
    """Events as SSE frames (id = the number: browsers resume by it) or JSON lines; a comment or blank line keeps it alive."""
    renderer = JSONRenderer()
    async for batch in live.watch(actor, start):
        if not await sync_to_async(_still_valid)(actor):
            return
        if not batch:
            yield b": alive\n\n" if kind == SSE else b"\n"
        for event in batch:
            body = renderer.render(EventSerializer(event).data)
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), body) if kind == SSE else body + b"\n"


def _still_valid(actor: Actor) -> bool:
    """False once the account was disabled or changed its rank, or the token was revoked, since the stream began."""
    user = actor.user
    if user is None:
        return True
    if actor.token_id and not user.tokens.filter(pk=actor.token_id, revoked_at=None).exists():
        return False
    return bool(type(user)._default_manager.filter(pk=user.pk, is_active=True, is_admin=actor.is_admin).exists())


class ReportSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    checked = serializers.IntegerField()
    first = serializers.IntegerField()
    last = serializers.IntegerField()
    findings = serializers.ListField(child=serializers.DictField())


class Verify(ApiView):
    """Walks the hash chain and compares it with the signed head."""

    operations = {"get": "Event Verify"}
    pagination_class = None
    serializer_class = ReportSerializer

    def get(self, request: Request) -> Response:
        self.require()
        report = verify()
        findings = [{"sequence": item.sequence, "kind": item.kind, "detail": item.detail} for item in report.findings]
        body = {"ok": report.ok, "checked": report.checked, "first": report.first, "last": report.last, "findings": findings}
        return Response(json.loads(json.dumps(body)))
