"""GET /v2/: is this a registry, and do my credentials work?"""

from __future__ import annotations

from registry.v2.auth import Credentials, authenticate
from registry.v2.errors import Challenge
from registry.v2.request import Request
from registry.v2.response import Response, json_response
from registry.v2.threads import rows


async def ping(request: Request) -> Response:
    await rows(_ping, Credentials.of(request))
    return json_response(200, {})


def _ping(credentials: Credentials) -> None:
    # Anonymous callers are challenged although public repositories need no login: clients learn the token service here.
    if not authenticate(credentials).presented:
        raise Challenge("log in, or ask the token service for an anonymous token")
