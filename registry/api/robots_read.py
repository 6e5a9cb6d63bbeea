"""Robots at the REST interface: they read what is in their repositories, on the routes that say so (docs/adr/0025)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from agent.protocol.errors import Denied, Unauthenticated
from controlplane.api.actor import Actor, address_of
from controlplane.users.authentication import BearerAuthentication, SessionAuthentication
from registry.actions import robot_login


class RobotAuthentication(authentication.BaseAuthentication):
    """A robot's secret, as bearer or as the password of HTTP Basic; whatever else comes is left to others.

    A secret that a route without this class gets is no token to it: 401.
    """

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        scheme, _, text = str(request.headers.get("Authorization", "")).partition(" ")
        name, secret = _split(text.strip()) if scheme.lower() == "basic" else ("", text.strip())
        if scheme.lower() not in {"basic", "bearer"} or not secret.startswith(robot_login.PREFIX):
            return None
        address = address_of(request._request)
        if scheme.lower() == "basic":
            actor = robot_login.authenticate_basic(name, secret, address=address)
        else:
            actor = robot_login.authenticate_bearer(secret, address=address)
        if actor is None:
            raise Unauthenticated("the robot's name or secret is wrong, it is expired or disabled, or not for this address")
        if request.method not in SAFE_METHODS:
            raise Denied("a robot reads here and changes nothing: it pushes and deletes as a registry client, by /v2/")
        return AnonymousUser(), actor

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="wharf"'


def _split(encoded: str) -> tuple[str, str]:
    """("harbour+ci", secret); ("", "") for what is no Basic credentials."""
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, secret


class ForRobots:
    """Mixed into a view that robots may read: every answer of it must be decided by `visible` and `require`."""

    authentication_classes: Any = (RobotAuthentication, BearerAuthentication, SessionAuthentication)


class _InTheDocument(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular's __init_subclass__
    target_class = RobotAuthentication
    name = "robot"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "basic", "description": "A robot's login and secret; the secret alone also as bearer."}
