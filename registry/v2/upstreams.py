"""The query parameter `ns` of pulls (distribution-spec, "Registry Proxying"): which of our repositories a client means that names
the registry whose repository it wants, as one does that takes us for a mirror of that registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

_HOST = re.compile(r"(?:[a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_PORTS = {"http": ":80", "https": ":443"}
# One registry by three names: the one in names of images, and those that answer.
_DOCKER = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Upstream:
    """A proxied namespace and what it shows: of the registry `hosts` (its names) what is below `prefix`."""

    namespace: str
    hosts: frozenset[str]
    prefix: str = ""


def is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def hosts_of(url: str) -> frozenset[str]:
    """The names, in lower case, by which the registry at `url` may be called: with its port, without if it is the usual one."""
    parts = urlsplit(url.lower())
    usual = _PORTS.get(parts.scheme, "")
    host = parts.netloc.removesuffix(usual)
    if host in _DOCKER:
        return _DOCKER
    return frozenset({host} if _port(host) else {host, host + usual})


def _port(netloc: str) -> str:
    return netloc.rpartition("]")[2].partition(":")[2]


def is_ours(host: str, base_url: str, names: Iterable[str]) -> bool:
    """Is `host` how the client reaches us (`base_url`), or one of our `names` with its port or none?"""
    port = _port(urlsplit(base_url).netloc)
    return any(host.lower() in {name.lower(), f"{name.lower()}:{port}"} for name in names) or host.lower() in hosts_of(base_url)


def resolve(upstreams: Iterable[Upstream], host: str, name: str) -> str | None:
    """Our repository for `name` of `host`, None without a proxied namespace that shows it.

    A name that begins with a proxied namespace of that host is ours already: clients may be told to put it before the path. Else
    the longest prefix counts, of equal ones the first.
    """
    theirs = [upstream for upstream in upstreams if host.lower() in upstream.hosts]
    namespace, _, rest = name.partition("/")
    if rest and any(upstream.namespace == namespace for upstream in theirs):
        return name
    best: Upstream | None = None
    for upstream in theirs:
        covers = not upstream.prefix or name.startswith(f"{upstream.prefix}/")
        if covers and (best is None or len(upstream.prefix) > len(best.prefix)):
            best = upstream
    if best is None:
        return None
    return f"{best.namespace}/{name[len(best.prefix) + 1 :] if best.prefix else name}"
