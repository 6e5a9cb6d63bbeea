"""The ASGI application of a web process: raw apps of the guests, Django, and the browser's websockets.

scope["type"] == "http":       a guest's mount by path prefix ("/v2"), else Django
scope["type"] == "websocket":  console sockets, same origin only, with the session's user
scope["type"] == "lifespan":   answered here
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402  # needs the app registry
from channels.routing import URLRouter  # noqa: E402  # needs the app registry
from channels.security.websocket import OriginValidator  # noqa: E402  # needs the app registry

from controlplane.api import guests  # noqa: E402  # needs the app registry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class SameOrigin(OriginValidator):  # type: ignore[misc]  # Channels has no types
    """Lets a websocket in only from a page of the very host it is opened to: cookies come along from any page."""

    def __init__(self, application: Any) -> None:
        super().__init__(application, ["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host and origin in {f"https://{host}", f"http://{host}"}:
            return await self.application(scope, receive, send)
        return await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 4403, "reason": "foreign origin"})


def _mounts() -> list[tuple[str, App]]:
    found: list[tuple[str, App]] = []
    for module in guests.modules("asgi"):
        found += [(prefix.rstrip("/"), app) for prefix, app in getattr(module, "mount", [])]
    return sorted(found, key=lambda item: len(item[0]), reverse=True)


def _sockets() -> list[Any]:
    routes: list[Any] = []
    module = guests.optional("controlplane.console.sockets")
    for found in [module, *guests.modules("console.sockets")]:
        if found is not None:
            routes += found.websocket_urlpatterns
    return routes


class Application:
    """Routes a connection; see the module's text."""

    def __init__(self) -> None:
        self.mounts = _mounts()
        self.sockets: App = SameOrigin(AuthMiddlewareStack(URLRouter(_sockets())))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope)(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)

    def _http(self, scope: Scope) -> App:
        path: str = scope["path"]
        for prefix, app in self.mounts:
            if path == prefix or path.startswith(prefix + "/"):
                return app
        return cast(App, django_application)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.sockets(scope, receive, send)
        except ValueError as error:
            if "No route found" not in str(error):  # Channels says it this way only
                raise
            await send({"type": "websocket.close", "code": 4404})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


application = Application()
