"""Who sends a REST request: a bearer token first, else the browser's session with its CSRF token."""

from __future__ import annotations

from typing import Any

from rest_framework import authentication
from rest_framework.request import Request

from agent.protocol.errors import Unauthenticated
from controlplane.api.actor import Actor, actor_of_user, address_of


class BearerAuthentication(authentication.BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        scheme, _, text = str(request.headers.get("Authorization", "")).partition(" ")
        if scheme.lower() != "bearer":
            return None
        from controlplane.users.credentials import (
            authenticate_bearer,
        )  # models need the app registry, REST's settings do not wait

        actor = authenticate_bearer(text.strip(), address=address_of(request._request))
        if actor is None:
            raise Unauthenticated("The token is unknown, expired, revoked, or not for this address: make a new one.")
        return actor.user, actor

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="wharf"'


class SessionAuthentication(authentication.SessionAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        found = super().authenticate(request)
        if found is None:
            return None
        return found[0], actor_of_user(found[0], address=address_of(request._request))
