"""/api/v1/users and /api/v1/me."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.access import AUTHENTICATED
from controlplane.api.filters import Filters
from controlplane.api.views import ApiView, ModelRoutes
from controlplane.users import actions
from controlplane.users.api.serializers import (
    NewUserSerializer,
    PasswordSerializer,
    SelfChangeSerializer,
    UserChangeSerializer,
    UserSerializer,
)
from controlplane.users.models import User


class UserFilter(Filters):
    class Meta:
        model = User
        fields = {"username": ["exact", "startswith"], "is_admin": ["exact"], "is_active": ["exact"]}


class Users(ModelRoutes):
    """Accounts. A user sees and changes the own one; administrators all."""

    queryset = User.objects.all()
    lookup_field = "username"
    filterset_class = UserFilter
    operations = {
        "list": "User View",
        "retrieve": "User View",
        "create": "User Create",
        "partial_update": "User Update Self",
        "destroy": "User Delete",
        "password": "User Update Self",
    }

    def get_serializer_class(self) -> Any:
        wide = getattr(self, "swagger_fake_view", False) or self.actor.is_admin
        return {
            "create": NewUserSerializer,
            "partial_update": UserChangeSerializer if wide else SelfChangeSerializer,
            "password": PasswordSerializer,
        }.get(self.action, UserSerializer)

    @extend_schema(responses={201: UserSerializer})
    def create(self, request: Request) -> Response:
        self.require()
        user = actions.create_user(self.actor, **self.validated())
        return self.tagged(
            user, UserSerializer(user).data, code=status.HTTP_201_CREATED, location=f"/api/v1/users/{user.username}"
        )

    @extend_schema(responses=UserSerializer)
    def partial_update(self, request: Request, username: str) -> Response:
        user = self.get_object()
        changes = self.validated()
        if {"is_admin", "is_active"} & set(changes):
            self.require(user, operation="User Update")
        user = actions.update_user(self.actor, user, changes, expected=self.expected())
        return self.tagged(user, UserSerializer(user).data)

    def destroy(self, request: Request, username: str) -> Response:
        actions.delete_user(self.actor, self.get_object(), expected=self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses={204: None})
    @action(detail=True, methods=["post"])
    def password(self, request: Request, username: str) -> Response:
        """Sets the password and ends the user's other sessions."""
        user = self.get_object()
        if self.actor.id != user.pk:
            self.require(user, operation="User Set Password")
        data = self.validated()
        raw = request._request
        key = raw.session.session_key if hasattr(raw, "session") else None
        actions.set_password(self.actor, user, data["password"], current=data.get("current"), session_key=key)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Me(ApiView):
    """The caller's own account."""

    operations = {"get": AUTHENTICATED}
    serializer_class = UserSerializer

    def get(self, request: Request) -> Response:
        return Response(UserSerializer(cast(User, request.user)).data)
