"""What stands between a listener and its ASGI app: the `tls` extension put in its place, and `/healthz`.

Which app answers which path is the business of controlplane.asgi.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.server.protocol import TLS_STATE

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Edge:
    """Wraps `app`. `/healthz` says that the event loop turns and the listener accepts; /api/v1/health also asks the database."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        expose_tls(scope)
        if scope["type"] == "http" and scope["path"] == "/healthz":
            await respond(send, 200, b"ok\n")
            return
        await self.app(scope, receive, send)


def expose_tls(scope: Scope) -> None:
    """Move the connection's `tls` dictionary from the state to the extensions. No TLS, no key."""
    tls = scope.get("state", {}).pop(TLS_STATE, None)
    if tls is not None:
        scope["extensions"] = {**(scope.get("extensions") or {}), "tls": tls}


async def respond(send: Any, status: int, body: bytes) -> None:
    """A whole text/plain response."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
