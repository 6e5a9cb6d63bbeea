"""Pulls from proxied namespaces: what is missing or stale here is asked of the other registry, and answered while it comes.

Whatever waits for another registry has threads of its own: a slow one holds up only those who pull through it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from django.conf import settings
from django.db import close_old_connections

from agent.protocol.errors import Throttled, Unavailable
from agent.protocol.oci import Digest, check_tag
from registry.actions import bringing, pulled, pulls
from registry.actions.arriving import ArrivingBlob
from registry.errors import BlobUnknown, RepositoryUnknown
from registry.models import Proxy
from registry.queries.proxies import covering
from registry.remote.errors import EgressRefused, RemoteBroken, RemoteRefused, RemoteUnknown
from registry.v2 import arriving, blobs
from registry.v2.auth import Credentials, admit
from registry.v2.manifests import headers_of
from registry.v2.request import ClientGone, Request, Scoped
from registry.v2.response import INLINE_BYTES, AnyResponse, PiecesResponse, Response
from registry.v2.routes import Route
from registry.v2.threads import rows
from registry.v2.upstreams import Upstream, hosts_of, is_host, is_ours, resolve

THREADS = 16
BACKLOG = 200  # pulls that may wait for a thread
LOOK_SECONDS = 2.0  # how long a process goes without looking which namespaces are proxied

Json = dict[str, Any]
P = TypeVar("P")
T = TypeVar("T")

_SCOPED = frozenset({"manifest", "blob", "tags", "referrers"})
_upstream = ThreadPoolExecutor(THREADS, thread_name_prefix="registry-upstream")
_upstreams: tuple[Upstream, ...] | None = None
_looked_at = float("-inf")


class UpstreamFailed(Unavailable):
    code = "upstream_failed"


async def scoped(request: Request, route: Route) -> Route:
    """The route to what is here. Raises RepositoryUnknown for an `ns` that nothing here shows."""
    host = request.parameter("ns") if _is_pull(request) and route.noun in _SCOPED else None
    return await _scope(request, route, host) if host else route


async def manifest(request: Request, route: Route) -> Response | None:
    """The answer with a manifest whose blobs are on their way; None when what is here counts.

    Does nothing, and asks nothing, for what is in no proxied namespace. Raises what a pull may be refused with.
    """
    if not _is_pull(request) or route.noun != "manifest" or not await _may_be_proxied(route.name):
        return None
    request.again = None  # the other registry is asked each time
    proxy, who = await rows(_admitted, Credentials.of(request), route.name)
    if proxy is None:
        return None
    target = str(Digest.parse(route.target)) if ":" in route.target else check_tag(route.target)
    found = await _asked(bringing.bring, proxy, route.name, target)
    if found is None:
        return None
    headers = headers_of(str(found.digest), found.media_type)
    if request.method == "HEAD":
        return Response(200, headers, length=len(found.raw))
    pulls.count(route.name, target, who)
    pulled.note(route.name, target, str(found.digest))
    return Response(200, headers, found.raw)


async def blob(request: Request, route: Route) -> AnyResponse | None:
    """A blob that is not here: from the other registry, while it comes. None where no other registry is asked."""
    if not _is_pull(request) or not await _may_be_proxied(route.name):
        return None
    request.again = None
    proxy, _ = await rows(_admitted, Credentials.of(request), route.name)
    if proxy is None:
        return None
    digest = Digest.parse(route.target)
    if request.method == "HEAD":
        size = await _asked(bringing.blob_size, proxy, route.name, digest)
        return None if size is None else Response(200, blobs.headers_of(digest), length=size)
    coming = await _asked(bringing.bring_blob, proxy, route.name, digest)
    if coming is not None and coming.size > INLINE_BYTES and "range" not in request.headers:
        return await _streamed(request, proxy, route.name, coming)
    if coming is not None:
        with _explained(proxy, route.name):
            await arriving.whole(coming)
    return await blobs.get(request, route.name, route.target)


async def _streamed(request: Request, proxy: Proxy, name: str, coming: ArrivingBlob) -> PiecesResponse:
    """Begins with the first piece: what goes wrong before it is still an answer of its own."""
    stream = arriving.pieces(coming)
    with _explained(proxy, name):
        first = await anext(stream)

    async def watched() -> AsyncGenerator[bytes, None]:
        gone = asyncio.ensure_future(request.gone())
        try:
            yield first
            async for piece in stream:
                if gone.done():
                    raise ClientGone("the client went away in the middle of a blob")
                yield piece
        finally:
            gone.cancel()
            await stream.aclose()

    return PiecesResponse(200, blobs.headers_of(coming.digest), watched(), coming.size)


async def referrers(request: Request, name: str, digest: Digest) -> list[Json]:
    """Descriptors of what points at a manifest in the other registry; none where there is no other, or it is away."""
    if not await _may_be_proxied(name):
        return []
    proxy, _ = await rows(_admitted, Credentials.of(request), name)
    return [] if proxy is None else await _asked(bringing.referrers, proxy, name, digest)


def _is_pull(request: Request) -> bool:
    return request.method in ("GET", "HEAD")


async def _scope(request: Request, route: Route, host: str) -> Route:
    """The route to our repository for the one of `host` that is asked for."""
    request.again = None  # answers are remembered by request line, whatever Host says, and the proxies may change
    name: str | None = None
    if is_host(host):
        ours = is_ours(host, request.base_url, settings.HOSTNAMES)
        name = route.name if ours else resolve(await _looked(), host, route.name)
    if name is None:
        raise RepositoryUnknown(
            f"no proxied namespace here shows {route.name} of {host[:100]!r}: leave ns out, or have an administrator make one "
            "(or name this registry so with WHARF_HOSTNAMES)"
        )
    request.scoped = Scoped(host, route.name)
    return replace(route, name=name)


async def _may_be_proxied(name: str) -> bool:
    namespace = name.partition("/")[0]
    return any(upstream.namespace == namespace for upstream in await _looked())


async def _looked() -> tuple[Upstream, ...]:
    global _upstreams, _looked_at  # one tuple a process
    if time.monotonic() - _looked_at > LOOK_SECONDS:
        if _upstreams is not None:
            _looked_at = time.monotonic()  # the others go on with what is known
        _upstreams = await rows(_enabled)
        _looked_at = time.monotonic()
    return _upstreams or ()


def _enabled() -> tuple[Upstream, ...]:
    found = Proxy.objects.filter(enabled=True).values_list("namespace__name", "url", "prefix")
    return tuple(Upstream(namespace, hosts_of(url), prefix) for namespace, url, prefix in found)


def _admitted(credentials: Credentials, name: str) -> tuple[Proxy | None, str]:
    """The proxy, and the name of who pulls. Nothing is asked elsewhere for who may not pull here."""
    proxy = covering(name)
    return proxy, "" if proxy is None else admit(credentials, name, "pull").name


async def _asked(call: Callable[[Proxy, str, P], T], proxy: Proxy, name: str, what: P) -> T:
    """`call` in a thread that may wait for the other registry. Raises Throttled, UpstreamFailed."""
    if _upstream._work_queue.qsize() > BACKLOG:
        raise Throttled("too many pulls wait for other registries; try again in a moment", retry_after=5)

    def work() -> T:
        try:
            with _explained(proxy, name):
                return call(proxy, name, what)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_upstream, work)


@contextmanager
def _explained(proxy: Proxy, name: str) -> Iterator[None]:
    """What another registry did, as what it means to a client of ours."""
    try:
        yield
    except RemoteUnknown as error:
        raise BlobUnknown(f"{name} names a blob that {proxy.host} does not have: {error}") from error
    except (RemoteRefused, RemoteBroken, EgressRefused) as error:
        raise UpstreamFailed(f"{name} cannot be had from {proxy.host}: {error}") from error
