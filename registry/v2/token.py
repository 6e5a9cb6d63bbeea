"""The token service: GET /v2/token as Docker's token specification has it, POST as its OAuth 2 form.

What is granted is what was asked and is allowed: a token without any right is still 200. Only bad credentials are 401.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from agent.protocol.errors import InvalidInput, TooLarge, Unauthenticated
from controlplane.api.actor import ANONYMOUS, Actor
from registry import token
from registry.actions import refresh
from registry.actions.robot_login import authenticate_basic
from registry.queries import access, policy, robots
from registry.v2.auth import Credentials, basic, subject_of
from registry.v2.request import Request
from registry.v2.response import Response, json_response
from registry.v2.threads import rows

FORM_BYTES = 64 << 10
MAX_SCOPES = 100


async def get(request: Request) -> Response:
    offline = request.parameter("offline_token") == "true"
    scopes = _scopes(request.query.get("scope", ()))
    client = request.parameter("client_id") or ""
    return _no_store(json_response(200, await rows(_get, Credentials.of(request), scopes, client, offline)))


async def post(request: Request) -> Response:
    raw = await request.body(FORM_BYTES, TooLarge(f"the form has more than {FORM_BYTES} bytes"))
    form = {name: values[-1] for name, values in parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True).items()}
    return _no_store(json_response(200, await rows(_post, form, request.address)))


def _no_store(response: Response) -> Response:
    response.headers["cache-control"] = "no-store"
    return response


def _get(credentials: Credentials, scopes: list[str], client: str, offline: bool) -> dict[str, Any]:
    version = policy.version()
    if not credentials.authorization:
        actor = ANONYMOUS
    elif credentials.authorization.lower().startswith("basic "):
        actor = basic(credentials, version)
    else:
        raise Unauthenticated("the token service takes HTTP Basic with a password or a personal token")
    refresh_token = refresh.create(actor, client) if offline and actor.kind == "user" else ""
    return _answer(actor, scopes, version, refresh_token)


def _post(form: Mapping[str, str], address: str) -> dict[str, Any]:
    version = policy.version()
    kind = form.get("grant_type", "")
    actor: Actor | None
    if kind == "password":
        actor = authenticate_basic(form.get("username", ""), form.get("password", ""), address=address)
    elif kind == "refresh_token":
        actor = refresh.actor_of(form.get("refresh_token", ""), address)
    else:
        raise InvalidInput("grant_type must be password or refresh_token")
    if actor is None:
        raise Unauthenticated("the credentials are wrong, expired or revoked; log in again")
    refresh_token = form.get("refresh_token", "")
    if kind == "password" and form.get("access_type") == "offline" and actor.kind == "user":
        refresh_token = refresh.create(actor, form.get("client_id", ""))
    return _answer(actor, _scopes([form.get("scope", "")]), version, refresh_token)


def _scopes(values: Iterable[str]) -> list[str]:
    """Parameters may repeat, and each may be a list divided by spaces."""
    return [scope for value in values for scope in value.split()][:MAX_SCOPES]


def _answer(actor: Actor, scopes: list[str], version: int, refresh_token: str) -> dict[str, Any]:
    granted = [entry for scope in scopes if (entry := _grant(actor, scope)) is not None]
    ttl = token.TTL_SECONDS if actor.kind != "robot" else robots.seconds_left(actor.id, token.TTL_SECONDS)
    text = token.issue(subject_of(actor), granted, ttl, name=actor.name, policy_version=version, scopes=actor.scopes)
    issued = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = {"token": text, "access_token": text, "expires_in": ttl, "issued_at": issued}
    if refresh_token:
        answer["refresh_token"] = refresh_token
    return answer


def _grant(actor: Actor, scope: str) -> dict[str, Any] | None:
    """`type[(class)]:name:action[,action]`: the allowed part of one scope, None for kinds that are not ours."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    kind = kind.partition("(")[0]
    asked = [action for action in actions.split(",") if action]
    if kind == "repository" and name:
        allowed = access.allowed_actions(actor, name, asked)
        return {"type": "repository", "name": name, "actions": sorted(allowed)}
    if kind == "registry" and name == "catalog" and "*" in asked and actor.kind != "anonymous":
        return {"type": "registry", "name": "catalog", "actions": ["*"]}
    return None
