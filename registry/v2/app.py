"""The ASGI door of /v2/."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from django.db import DatabaseError

from agent.protocol.errors import Internal, NotFound, Unavailable, WharfError
from registry import token as token_core
from registry.actions import pulled, pulls
from registry.errors import BlobUnknown, Unsupported
from registry.v2 import again, blobs, catalog, manifests, ping, proxy, referrers, tags, token, uploads
from registry.v2.errors import error_response
from registry.v2.request import ClientGone, Request
from registry.v2.response import AnyResponse, BlobResponse, Response, send_response
from registry.v2.routes import Route, match
from registry.v2.threads import writes

Handler: TypeAlias = Callable[..., Awaitable[Response | BlobResponse]]  # of what is here

log = logging.getLogger(__name__)

# What a handler takes after the request is (), (name,) or (name, target), by the noun's place in the path.
_HANDLERS: dict[str, dict[str, Handler]] = {
    "ping": {"GET": ping.ping, "HEAD": ping.ping},
    "token": {"GET": token.get, "POST": token.post},
    "catalog": {"GET": catalog.get},
    "uploads": {"POST": uploads.post},
    "upload": {"PATCH": uploads.patch, "PUT": uploads.put, "GET": uploads.get, "DELETE": uploads.delete},
    "blob": {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete},
    "manifest": {"GET": manifests.get, "HEAD": manifests.head, "PUT": manifests.put, "DELETE": manifests.delete},
    "tags": {"GET": tags.get},
    "referrers": {"GET": referrers.get},
}
_background: set[asyncio.Task[Any]] = set()


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """One request. Anything but HTTP is not ours."""
    if scope["type"] != "http":
        raise ValueError(f"registry.v2 serves HTTP only, not {scope['type']}")
    request = Request(scope, receive)
    again.begin(request)
    try:
        response = await _answer(request)
    except ClientGone:
        return
    again.remember(request, response)
    if request.scoped is not None:
        response.headers["oci-namespace"] = request.scoped.host
    await send_response(scope, send, response)
    _flush_pulls()


async def _answer(request: Request) -> AnyResponse:
    try:
        return await _dispatch(request)
    except ClientGone:
        raise
    except WharfError as error:
        return _refusal(request, error)
    except DatabaseError:
        log.exception("database error on %s %s", request.method, request.path)
        return _refusal(request, Unavailable("the registry's database is away or refused; try again"))
    except Exception:
        # The last line of defence of a server: a defect of ours must still answer in the protocol's shape.
        log.exception("defect on %s %s", request.method, request.path)
        return _refusal(request, Internal("the registry failed on this request; its log says why"))


def _refusal(request: Request, error: WharfError) -> Response:
    return error_response(error, f"{request.base_url}/v2/token", token_core.SERVICE)


async def _dispatch(request: Request) -> AnyResponse:
    route = _route(request.scope)
    if route is None:
        raise NotFound(f"there is nothing at {request.path[:200]}")
    methods = _HANDLERS[route.noun]
    handler = methods.get(request.method)
    if handler is None:
        raise Unsupported(f"{request.method} is not possible here", allow=", ".join(sorted(methods)))
    route = await proxy.scoped(request, route)
    coming: AnyResponse | None = await proxy.manifest(request, route)
    if coming is not None:
        return coming
    arguments = (route.name, route.target) if route.target else (route.name,) if route.name else ()
    try:
        return await handler(request, *arguments)
    except BlobUnknown:
        if (coming := await proxy.blob(request, route)) is None:
            raise
        return coming


def _route(scope: HTTPScope) -> Route | None:
    # %2f would let a component hide a slash: names never need it.
    if b"%2f" in scope.get("raw_path", b"").lower():
        return None
    return match(scope["path"])


def _flush_pulls() -> None:
    if pulls.due():
        task = asyncio.ensure_future(writes(_write_pulls))
        _background.add(task)
        task.add_done_callback(_flushed)


def _write_pulls() -> None:
    pulls.flush()
    pulled.flush()


def _flushed(task: asyncio.Task[Any]) -> None:
    _background.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("pull counters were not written: %s", error)
