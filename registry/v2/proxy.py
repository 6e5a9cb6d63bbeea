"""Before a pull from a proxied namespace is answered: what is missing or stale is fetched from the other registry.

Everything here waits for another registry, so it has threads of its own: a slow one holds up only those who pull through it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from django.db import close_old_connections

from agent.protocol.errors import Throttled, Unavailable
from agent.protocol.oci import Digest, check_tag
from registry.actions import proxies
from registry.models import Proxy
from registry.queries.proxies import covering
from registry.remote.errors import EgressRefused, RemoteBroken, RemoteRefused
from registry.v2.auth import Credentials, admit
from registry.v2.request import Request
from registry.v2.routes import Route
from registry.v2.threads import rows

THREADS = 16
BACKLOG = 200  # pulls that may wait for a thread
LOOK_SECONDS = 2.0  # how long a process goes without looking which namespaces are proxied

_upstream = ThreadPoolExecutor(THREADS, thread_name_prefix="registry-upstream")
_namespaces: frozenset[str] = frozenset()
_looked_at = float("-inf")


class UpstreamFailed(Unavailable):
    code = "upstream_failed"


async def prepare(request: Request, route: Route) -> None:
    """Does nothing, and asks nothing, for what is in no proxied namespace. Raises what a pull may be refused with."""
    if route.noun != "manifest" or request.method not in ("GET", "HEAD") or not await _may_be_proxied(route.name):
        return
    request.again = None  # the other registry is asked each time
    proxy = await rows(_admitted, Credentials.of(request), route.name)
    if proxy is None:
        return
    target = str(Digest.parse(route.target)) if ":" in route.target else check_tag(route.target)
    if _upstream._work_queue.qsize() > BACKLOG:
        raise Throttled("too many pulls wait for other registries; try again in a moment", retry_after=5)
    await asyncio.get_running_loop().run_in_executor(_upstream, _bring, proxy, route.name, target)


async def _may_be_proxied(name: str) -> bool:
    global _namespaces, _looked_at  # one set a process
    if time.monotonic() - _looked_at > LOOK_SECONDS:
        _looked_at = time.monotonic()
        _namespaces = await rows(_proxied_namespaces)
    return name.partition("/")[0] in _namespaces


def _proxied_namespaces() -> frozenset[str]:
    return frozenset(Proxy.objects.filter(enabled=True).values_list("namespace__name", flat=True))


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
