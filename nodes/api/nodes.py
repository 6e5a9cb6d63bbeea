"""/api/v1/nodes and /api/v1/join-tokens."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput
from agent.protocol.states import Availability
from controlplane.api.access import PUBLIC
from controlplane.api.actor import address_of
from controlplane.api.filters import Filters
from controlplane.api.throttles import LoginThrottle
from controlplane.api.views import ApiView, ModelRoutes
from controlplane.rbac import collections
from nodes import actions, queries
from nodes.api.serializers import (
    ActionSerializer,
    EmptySerializer,
    ImageReferenceSerializer,
    JoinedSerializer,
    JoinSerializer,
    JoinTokenSerializer,
    NewJoinTokenSerializer,
    NodeChangeSerializer,
    NodeImageSerializer,
    NodeSerializer,
    SampleSerializer,
    ShownJoinTokenSerializer,
)
from nodes.api.waiting import WAIT, answer, refuse_unreachable
from nodes.models import JoinToken, Node, NodeImage

FORCE = OpenApiParameter("force", bool, description="Remove it though it is used.")
REFERENCE = OpenApiParameter("reference", str, required=True, description="repository[:tag], or the image's id.")


class NodeFilter(Filters):
    hostname = filters.CharFilter(lookup_expr="iexact")
    pending = filters.BooleanFilter(field_name="approved_at", lookup_expr="isnull")

    class Meta:
        model = Node
        fields = ["state", "availability", "role"]


class Nodes(ModelRoutes):
    """Hosts with an agent. Removed ones are not listed."""

    queryset = Node.objects.members().select_related("collection")
    filterset_class = NodeFilter
    query = frozenset({"force", "wait", "reference"})
    operations = {
        "list": "Node View",
        "retrieve": "Node View",
        "partial_update": "Node Update",
        "destroy": "Node Remove",
        "approve": "Node Approve",
        "end_adoption": "Node Update",
        "images": "Node View",
        "pull_image": "Node Schedule",
        "remove_image": "Node Update",
        "samples": "Node View",
    }

    def get_serializer_class(self) -> Any:
        return {
            "partial_update": NodeChangeSerializer,
            "approve": EmptySerializer,
            "end_adoption": EmptySerializer,
            "images": NodeImageSerializer,
            "pull_image": ImageReferenceSerializer,
            "samples": SampleSerializer,
        }.get(self.action, NodeSerializer)

    @extend_schema(responses=NodeSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Availability, labels, collection, role."""
        row, data = self.get_object(), self.validated()
        place = collections.resolve(data["collection"]) if "collection" in data else None
        if place is not None:
            self.require(place)
        row = actions.update_node(
            self.actor,
            row,
            expected=self.expected(),
            availability=Availability(data["availability"]) if "availability" in data else None,
            labels=data.get("labels"),
            collection=place,
            role=data.get("role", ""),
        )
        return self.tagged(row, NodeSerializer(row).data)

    @extend_schema(parameters=[FORCE], responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Out for ever: its certificate is worthless from now on, its tasks are replaced elsewhere."""
        force = request.query_params.get("force", "").lower() in {"1", "true"}
        actions.remove_node(self.actor, self.get_object(), expected=self.expected(), force=force)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=EmptySerializer, responses=NodeSerializer)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        """Let a node that waits for approval take tasks."""
        row = actions.approve_node(self.actor, self.get_object())
        return self.tagged(row, NodeSerializer(row).data)

    @extend_schema(request=EmptySerializer, responses=NodeSerializer)
    @action(detail=True, methods=["post"], url_path="end-adoption")
    def end_adoption(self, request: Request, pk: str) -> Response:
        """The containers that the database did not know are decided upon: enforce assignments again."""
        row = actions.end_adoption(self.actor, self.get_object())
        return self.tagged(row, NodeSerializer(row).data)

    @extend_schema(responses=NodeImageSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def images(self, request: Request, pk: str) -> Response:
        """What its image store holds."""
        rows = NodeImage.objects.filter(node=self.get_object())[:1000]
        return Response(NodeImageSerializer(rows, many=True).data)

    @extend_schema(parameters=[WAIT], responses={200: ActionSerializer, 202: ActionSerializer})
    @images.mapping.post
    def pull_image(self, request: Request, pk: str) -> Response:
        """Fetch an image of the registry before anything needs it."""
        node = self.get_object()
        refuse_unreachable(node)
        return answer(request, actions.pull_image(self.actor, node, self.validated()["reference"]))

    @extend_schema(parameters=[WAIT, FORCE, REFERENCE], responses={200: ActionSerializer, 202: ActionSerializer})
    @images.mapping.delete
    def remove_image(self, request: Request, pk: str) -> Response:
        """Remove an image from the node; the registry keeps it."""
        node = self.get_object()
        refuse_unreachable(node)
        reference = request.query_params.get("reference", "")
        if not reference:
            raise InvalidInput("reference: say which image", field="reference")
        args = {"reference": reference, "force": request.query_params.get("force", "").lower() in {"1", "true"}}
        return answer(request, actions.queue_action(self.actor, node, "image_remove", "", args))

    @extend_schema(responses=SampleSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def samples(self, request: Request, pk: str) -> Response:
        """Usage of the last quarter of an hour, oldest first."""
        return Response(queries.samples(self.get_object().pk))


class Join(ApiView):
    """A new node redeems its token: public, authenticated by the token, throttled."""

    operations = {"post": PUBLIC}
    authentication_classes = ()
    throttle_classes = (LoginThrottle,)
    secret_answer = True
    serializer_class = JoinSerializer
    pagination_class = None

    @extend_schema(responses={201: JoinedSerializer}, auth=[])
    def post(self, request: Request) -> Response:
        data = self.validated()
        joined = actions.join(
            data["token"],
            data["csr"],
            data.get("hostname", ""),
            address=address_of(request._request),
            reached_by=_host(request),
        )
        return Response(asdict(joined), status=status.HTTP_201_CREATED)


def _host(request: Request) -> str:
    """The host that the request was sent to, without its port and an IPv6 address's brackets."""
    host = request._request.get_host()
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]")


class JoinTokens(ModelRoutes):
    """Rights to join. The token itself is shown once, at creation."""

    queryset = JoinToken.objects.select_related("collection")
    secret_answer = True
    operations = {
        "list": "JoinToken View",
        "retrieve": "JoinToken View",
        "create": "JoinToken Create",
        "destroy": "JoinToken Revoke",
    }

    def get_serializer_class(self) -> Any:
        return NewJoinTokenSerializer if self.action == "create" else JoinTokenSerializer

    @extend_schema(responses={201: ShownJoinTokenSerializer})
    def create(self, request: Request) -> Response:
        self.require()
        data = self.validated()
        place = collections.resolve(data.pop("collection")) if "collection" in data else None
        lifetime = timedelta(seconds=data.pop("lifetime", 86400))
        token, text = actions.create_join_token(self.actor, collection=place, lifetime=lifetime, **data)
        body = {**JoinTokenSerializer(token).data, "token": text}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Location": f"/api/v1/join-tokens/{token.pk}"})

    def destroy(self, request: Request, pk: str) -> Response:
        """Revoke; nodes that joined with it stay."""
        actions.revoke_join_token(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)
