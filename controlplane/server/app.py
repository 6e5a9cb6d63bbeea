"""The ASGI apps of a web process: guests' raw apps by path prefix beside Django, and the `tls` extension put in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controlplane.api import guests
from controlplane.server.protocol import TLS_STATE

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def guest_mounts() -> list[tuple[str, App]]:
    """Every guest's `asgi.mount`: a list of (path prefix ending in "/", app), or a function that returns one."""
    mounts: list[tuple[str, App]] = []
    for module in guests.modules("asgi"):
        mount = getattr(module, "mount", None)
        mounts.extend((mount() if callable(mount) else mount) or [])
    return sorted(mounts, key=lambda entry: -len(entry[0]))


class Composite:
    """Sends a request to the app whose prefix is the longest match, else to `fallback` (Django and Channels).

    The path is passed unchanged. `/healthz` is answered here: it says that the event loop turns and a listener accepts, no more.
    """

    def __init__(self, fallback: App, mounts: Sequence[tuple[str, App]] = ()) -> None:
        self.fallback = fallback
        self.mounts = list(mounts)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        expose_tls(scope)
        path = scope.get("path", "")
        if path == "/healthz" and scope["type"] == "http":
            await respond(send, 200, b"ok\n")
            return
        await self.choose(path)(scope, receive, send)

    def choose(self, path: str) -> App:
        """The app that answers `path`."""
        for prefix, app in self.mounts:
            if path.startswith(prefix) or path == prefix.rstrip("/"):
                return app
        return self.fallback


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
