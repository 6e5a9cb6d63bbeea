"""/api/v1/login, /api/v1/tokens and /api/v1/sessions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import NotFound
from controlplane.api.access import PUBLIC
from controlplane.api.actor import actor_of_user, address_of
from controlplane.api.filters import Filters
from controlplane.api.throttles import LoginThrottle
from controlplane.api.views import ApiView, ModelRoutes
from controlplane.users import actions
from controlplane.users.actions.signing_in import verify
from controlplane.users.api.serializers import (
    LoginSerializer,
    NewTokenSerializer,
    SessionSerializer,
    ShownTokenSerializer,
    TokenSerializer,
)
from controlplane.users.models import Token, User, UserSession

LOGIN_LIFETIME = timedelta(days=30)


class Login(ApiView):
    """A name and a password for a new token: how the command line signs in."""

    operations = {"post": PUBLIC}
    secret_answer = True
    authentication_classes = ()
    throttle_classes = (LoginThrottle,)
    serializer_class = LoginSerializer

    @extend_schema(responses={201: ShownTokenSerializer}, auth=[])
    def post(self, request: Request) -> Response:
        data = self.validated()
        address = address_of(request._request)
        user = verify(data["username"], data["password"], address=address, request=request._request)
        name = data.get("name") or f"cli {timezone.now():%Y-%m-%d %H:%M:%S.%f}"
        expires = data.get("expires_at") or timezone.now() + LOGIN_LIFETIME
        token, text = actions.create_token(actor_of_user(user, address=address), user, name, None, expires)
        return Response({**TokenSerializer(token).data, "token": text}, status=status.HTTP_201_CREATED)


class TokenFilter(Filters):
    username = filters.CharFilter(field_name="user__username")
    active = filters.BooleanFilter(field_name="revoked_at", lookup_expr="isnull")


class Tokens(ModelRoutes):
    """Access tokens: the caller's own, for administrators all."""

    queryset = Token.objects.select_related("user")
    filterset_class = TokenFilter
    secret_answer = True
    operations = {"list": "Token View", "retrieve": "Token View", "create": "Token Create", "destroy": "Token Revoke"}

    def get_serializer_class(self) -> Any:
        return NewTokenSerializer if self.action == "create" else TokenSerializer

    @extend_schema(responses={201: ShownTokenSerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        name = data.get("user", self.actor.name).lower()
        user = User.objects.filter(username=name).first()
        if user is None:
            raise NotFound(f"There is no user {name}, or you may not see them.")
        self.require(user)
        token, text = actions.create_token(
            self.actor, user, data["name"], data.get("scopes"), data.get("expires_at"), cidrs=data.get("cidrs", ())
        )
        headers = {"Location": f"/api/v1/tokens/{token.pk}"}
        return Response({**TokenSerializer(token).data, "token": text}, status=status.HTTP_201_CREATED, headers=headers)

    def destroy(self, request: Request, pk: str) -> Response:
        """Revokes: the row stays, so that events can name it."""
        actions.revoke_token(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Sessions(ModelRoutes):
    """Browsers that are signed in: the caller's own, for administrators all."""

    queryset = UserSession.objects.select_related("user")
    serializer_class = SessionSerializer
    operations = {"list": "Session View", "retrieve": "Session View", "destroy": "Session End"}

    def destroy(self, request: Request, pk: str) -> Response:
        actions.end_session(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)
