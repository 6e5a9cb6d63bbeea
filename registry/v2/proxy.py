"""Before a pull from a proxied namespace is answered: what is missing or stale is fetched from the other registry.

Everything here waits for another registry, so it has threads of its own: a slow one holds up only those who pull through it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from django.conf import settings
from django.db import close_old_connections

from agent.protocol.errors import Throttled, Unavailable
from agent.protocol.oci import Digest, check_tag
from registry.actions import proxies
from registry.errors import RepositoryUnknown
from registry.models import Proxy
from registry.queries.proxies import covering
from registry.remote.errors import EgressRefused, RemoteBroken, RemoteRefused
from registry.v2.auth import Credentials, admit
from registry.v2.request import Request, Scoped
from registry.v2.routes import Route
from registry.v2.threads import rows
from registry.v2.upstreams import Upstream, hosts_of, is_host, is_ours, resolve

THREADS = 16
BACKLOG = 200  # pulls that may wait for a thread
LOOK_SECONDS = 2.0  # how long a process goes without looking which namespaces are proxied

_SCOPED = frozenset({"manifest", "blob", "tags", "referrers"})
_upstream = ThreadPoolExecutor(THREADS, thread_name_prefix="registry-upstream")
_upstreams: tuple[Upstream, ...] | None = None
_looked_at = float("-inf")


class UpstreamFailed(Unavailable):
    code = "upstream_failed"


async def prepare(request: Request, route: Route) -> Route:
    """The route to answer. Does nothing, and asks nothing, for what is in no proxied namespace.

    Raises what a pull may be refused with, and RepositoryUnknown for an `ns` that nothing here shows.
    """
    if request.method not in ("GET", "HEAD") or route.noun not in _SCOPED:
        return route
    if host := request.parameter("ns"):
        route = await _scope(request, route, host)
    if route.noun != "manifest" or not await _may_be_proxied(route.name):
        return route
    request.again = None  # the other registry is asked each time
    proxy = await rows(_admitted, Credentials.of(request), route.name)
    if proxy is None:
        return route
    target = str(Digest.parse(route.target)) if ":" in route.target else check_tag(route.target)
    if _upstream._work_queue.qsize() > BACKLOG:
        raise Throttled("too many pulls wait for other registries; try again in a moment", retry_after=5)
    await asyncio.get_running_loop().run_in_executor(_upstream, _bring, proxy, route.name, target)
    return route


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


def _admitted(credentials: Credentials, name: str) -> Proxy | None:
    """Nothing is asked elsewhere for who may not pull here."""
    proxy = covering(name)
    if proxy is not None:
        admit(credentials, name, "pull")
    return proxy


def _bring(proxy: Proxy, name: str, target: str) -> None:
    try:
        proxies.bring(proxy, name, target)
    except (RemoteRefused, RemoteBroken, EgressRefused) as error:
        raise UpstreamFailed(f"{name} cannot be had from {proxy.host}: {error}") from error
    finally:
        close_old_connections()
