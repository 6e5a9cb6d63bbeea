"""/api/v1/organisations and /api/v1/teams."""

from __future__ import annotations

from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import NotFound
from controlplane.api import access
from controlplane.api.filters import Filters
from controlplane.api.views import ModelRoutes
from controlplane.users import actions
from controlplane.users.api.serializers import (
    MemberSerializer,
    NewOrganisationSerializer,
    NewTeamSerializer,
    OrganisationChangeSerializer,
    OrganisationSerializer,
    TeamChangeSerializer,
    TeamMemberSerializer,
    TeamSerializer,
)
from controlplane.users.models import Membership, Organisation, Team, TeamMembership, User


class NameSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=100)
    is_owner = serializers.BooleanField(required=False)


class TeamNameSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=100)


def _user(name: str) -> User:
    """A user by exact name. Owners add people by a name they know; they cannot list names."""
    user = User.objects.filter(username=name.lower(), is_active=True).first()
    if user is None:
        raise NotFound(f"There is no user {name}.")
    return user


class Organisations(ModelRoutes):
    queryset = Organisation.objects.all()
    lookup_field = "name"
    operations = {
        "list": "Organisation View",
        "retrieve": "Organisation View",
        "create": "Organisation Create",
        "partial_update": "Organisation Update",
        "destroy": "Organisation Delete",
        "members": "Organisation View",
        "add_member": "Organisation Manage Members",
        "remove_member": "Organisation Manage Members",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewOrganisationSerializer,
            "partial_update": OrganisationChangeSerializer,
            "members": MemberSerializer,
            "add_member": NameSerializer,
        }.get(self.action, OrganisationSerializer)

    @extend_schema(responses={201: OrganisationSerializer})
    def create(self, request: Request) -> Response:
        self.require()
        data = self.validated()
        owner = _user(data.pop("owner")) if "owner" in data else None
        row = actions.create_organisation(self.actor, data["name"], full_name=data.get("full_name", ""), owner=owner)
        location = f"/api/v1/organisations/{row.name}"
        return self.tagged(row, OrganisationSerializer(row).data, code=status.HTTP_201_CREATED, location=location)

    @extend_schema(responses=OrganisationSerializer)
    def partial_update(self, request: Request, name: str) -> Response:
        row = actions.update_organisation(self.actor, self.get_object(), self.validated(), expected=self.expected())
        return self.tagged(row, OrganisationSerializer(row).data)

    def destroy(self, request: Request, name: str) -> Response:
        actions.delete_organisation(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=MemberSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def members(self, request: Request, name: str) -> Response:
        rows = Membership.objects.filter(organisation=self.get_object()).select_related("user").order_by("user__username")
        return Response(MemberSerializer(rows, many=True).data)

    @extend_schema(responses=MemberSerializer)
    @members.mapping.post
    def add_member(self, request: Request, name: str) -> Response:
        organisation = self.get_object()
        data = self.validated()
        row = actions.add_member(self.actor, organisation, _user(data["username"]), is_owner=data.get("is_owner", False))
        return Response(MemberSerializer(row).data)

    @action(detail=True, methods=["delete"], url_path="members/(?P<username>[a-z0-9._-]+)")
    def remove_member(self, request: Request, name: str, username: str) -> Response:
        actions.remove_member(self.actor, self.get_object(), _user(username))
        return Response(status=status.HTTP_204_NO_CONTENT)


class TeamFilter(Filters):
    organisation = filters.CharFilter(field_name="organisation__name")
    name = filters.CharFilter()


class Teams(ModelRoutes):
    queryset = Team.objects.select_related("organisation")
    filterset_class = TeamFilter
    operations = {
        "list": "Team View",
        "retrieve": "Team View",
        "create": "Team Create",
        "partial_update": "Team Update",
        "destroy": "Team Delete",
        "members": "Team View",
        "add_member": "Team Manage Members",
        "remove_member": "Team Manage Members",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewTeamSerializer,
            "partial_update": TeamChangeSerializer,
            "members": TeamMemberSerializer,
            "add_member": TeamNameSerializer,
        }.get(self.action, TeamSerializer)

    @extend_schema(responses={201: TeamSerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        organisation = access.visible(self.actor, Organisation.objects.filter(name=data["organisation"].lower())).first()
        if organisation is None:
            raise NotFound(f"There is no organisation {data['organisation']}, or you may not see it.")
        self.require(organisation)
        team = actions.create_team(self.actor, organisation, data["name"], description=data.get("description", ""))
        return self.tagged(team, TeamSerializer(team).data, code=status.HTTP_201_CREATED, location=f"/api/v1/teams/{team.pk}")

    @extend_schema(responses=TeamSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        team = actions.update_team(self.actor, self.get_object(), self.validated(), expected=self.expected())
        return self.tagged(team, TeamSerializer(team).data)

    def destroy(self, request: Request, pk: str) -> Response:
        actions.delete_team(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=TeamMemberSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def members(self, request: Request, pk: str) -> Response:
        rows = TeamMembership.objects.filter(team=self.get_object()).select_related("user").order_by("user__username")
        return Response(TeamMemberSerializer(rows, many=True).data)

    @extend_schema(responses=TeamMemberSerializer)
    @members.mapping.post
    def add_member(self, request: Request, pk: str) -> Response:
        row = actions.add_team_member(self.actor, self.get_object(), _user(self.validated()["username"]))
        return Response(TeamMemberSerializer(row).data)

    @action(detail=True, methods=["delete"], url_path="members/(?P<username>[a-z0-9._-]+)")
    def remove_member(self, request: Request, pk: str, username: str) -> Response:
        actions.remove_team_member(self.actor, self.get_object(), _user(username))
        return Response(status=status.HTTP_204_NO_CONTENT)
