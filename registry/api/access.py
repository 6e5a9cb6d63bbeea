"""/api/v1/repositories/{id}/access: who may do what there and why; giving and taking."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import InvalidInput
from registry.actions import access as actions
from registry.api.scope import OfRepository
from registry.queries import explaining, sharing
from registry.queries.subjects import SUBJECTS


class RightSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(help_text="admins, user, team, org, everybody or robot")
    who = serializers.CharField()
    level = serializers.CharField(help_text="read, read-write, admin, view or some; of a robot its actions")
    verbs = serializers.ListField(child=serializers.CharField())
    why = serializers.CharField()
    path = serializers.CharField(allow_blank=True)
    role = serializers.CharField(allow_blank=True)
    grant_id = serializers.CharField(allow_blank=True)
    removable = serializers.BooleanField()


class GiveSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=SUBJECTS)
    name = serializers.CharField(max_length=210, help_text="of a team: organisation/team")
    role = serializers.CharField(max_length=100, help_text="read, read-write, admin, or the name of a role")
    whole_namespace = serializers.BooleanField(default=False)


class AnswerSerializer(serializers.Serializer[Any]):
    operation = serializers.CharField()
    allowed = serializers.BooleanField()
    reason = serializers.CharField()


class Access(OfRepository):
    operations = {"get": "Repository Access", "post": "Repository Access"}

    def get_serializer_class(self) -> Any:
        return GiveSerializer if self.request.method == "POST" else RightSerializer

    @extend_schema(operation_id="repositories_access_list", responses=RightSerializer(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """Everything that gives somebody a right in the repository."""
        return Response(RightSerializer(sharing.rights(self.repository()), many=True).data)

    @extend_schema(request=GiveSerializer, responses={201: RightSerializer(many=True)})
    def post(self, request: Request, pk: str) -> Response:
        """Give a user, a team or an organisation a right; answers who has what from now on."""
        repository, data = self.repository(), self.validated()
        whole = data["whole_namespace"]
        actions.give(self.actor, repository, data["kind"], data["name"], data["role"], whole_namespace=whole)
        return Response(RightSerializer(sharing.rights(repository), many=True).data, status=status.HTTP_201_CREATED)


class Withdraw(OfRepository):
    operations = {"delete": "Repository Access"}
    serializer_class = RightSerializer

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: str, grant: str) -> Response:
        """Take a grant away that stands on the repository or its namespace."""
        actions.take(self.actor, self.repository(), grant)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Explain(OfRepository):
    operations = {"get": "Repository Access"}
    serializer_class = AnswerSerializer
    query = frozenset(explaining.KINDS)

    @extend_schema(
        parameters=[
            OpenApiParameter("user", str, description="one of these four"),
            OpenApiParameter("team", str, description="organisation/team"),
            OpenApiParameter("org", str, description="an organisation: what every member may"),
            OpenApiParameter("robot", str, description="namespace+name"),
        ],
        responses=AnswerSerializer(many=True),
    )
    def get(self, request: Request, pk: str) -> Response:
        """Every operation, as it is decided for one user, team, organisation or robot, with the reason."""
        repository, asked = self.repository(), request.query_params
        given = [kind for kind in explaining.KINDS if asked.get(kind)]
        if len(given) != 1:
            raise InvalidInput(f"say one of {', '.join(explaining.KINDS)}")
        return Response(AnswerSerializer(explaining.explained(repository, given[0], asked[given[0]]), many=True).data)
