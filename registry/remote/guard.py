"""Where requests that users cause may go: webhooks, mirrors and proxies must not reach what only this host can reach (SSRF).

A name is resolved once, every address it has is checked, and the connection goes to an address that was checked, never to the
name again: a resolver that answers differently the second time gains nothing. Redirects pass through here like any request.

Refused: loopback, private, link-local, shared, multicast and reserved networks, addresses of this host, the metadata services
of clouds, IPv6 forms that wrap such an IPv4 address, and IPv4 addresses in any but the usual spelling. What an administrator
names in WHARF_REGISTRY_EGRESS_ALLOW goes all the same:

    10.0.0.0/8               a network or an address, at every port
    10.1.2.3:5000            at one port; [fd00::7]:5000
    registry.example.org     a name, whatever address it has; .example.org: every name below
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry.limits import words
from registry.remote.errors import EgressRefused, RemoteAway

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Sequence[str]]  # (host, port) -> addresses

LOW_PORTS = frozenset({80, 443})  # below 1024; the others speak no HTTP and some do what a line of text tells them
MAX_URL = 2000
_SETTING = "WHARF_REGISTRY_EGRESS_ALLOW"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that was ever given out; site-local addresses count as global to Python
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
# Protocol assignments (RFC 6890). Newer Pythons count 192.0.0.9 and .10 as global: anycast to this network's own gateways.
_ASSIGNED = ipaddress.IPv4Network("192.0.0.0/24")
# What hands out credentials to whoever asks. The last one of IPv4 is a public address.
METADATA: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::254/128", "fe80::/10")
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads; `host` is lower-case and without brackets."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """One word of the allow-list: a network or a name, at `port` (0 = every one)."""

    network: Network | None
    name: str
    port: int

    @classmethod
    def parse(cls, word: str) -> Allowed:
        """Raises EgressRefused for a word that means nothing: a list that is half understood is worse than none."""
        body, port = word.lower(), 0
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+):([0-9]{1,5})", body)
        if match:
            body, port = match[1], int(match[2])
        body = body.strip("[]")
        try:
            return cls(ipaddress.ip_network(body, strict=False), "", port)
        except ValueError:
            if _numeric(body) or not all(_LABEL.fullmatch(label) for label in body.lstrip(".").split(".")):
                raise EgressRefused(f"{_SETTING} holds {word!r}, which is no network, address or host name") from None
            return cls(None, body, port)

    def fits_name(self, host: str, port: int) -> bool:
        if self.network is not None or self.port not in (0, port):
            return False
        return host.endswith(self.name) if self.name.startswith(".") else host == self.name

    def fits_address(self, address: Address, port: int) -> bool:
        return self.network is not None and self.port in (0, port) and address in self.network


def allow_list() -> tuple[Allowed, ...]:
    return tuple(Allowed.parse(word) for word in words("EGRESS_ALLOW"))


def check_url(url: str) -> Target:
    """The target of a URL whose form is fine; its addresses are checked by `resolve`. Raises EgressRefused."""
    if len(url) > MAX_URL or any(ord(char) <= 0x20 or ord(char) >= 0x7F for char in url):
        raise EgressRefused(f"a URL has at most {MAX_URL} characters of printable ASCII and no blanks; write names as xn--…")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise EgressRefused(f"{url[:200]!r} is no URL") from None
    if parts.scheme not in ("http", "https"):
        raise EgressRefused("the URL must begin with https:// or http://")
    if "@" in parts.netloc or "\\" in url:
        raise EgressRefused("the URL must hold no user name and no '\\'; credentials have fields of their own")
    return check_host(parts.scheme, host, (443 if parts.scheme == "https" else 80) if port is None else port)


def check_host(scheme: str, host: str, port: int) -> Target:
    """Likewise, of a host and a port. Raises EgressRefused."""
    host = host.lower().removesuffix(".") if not _numeric(host) else host
    if not 0 < port < 65536:
        raise EgressRefused(f"{port} is no port")
    literal(host)
    if ":" not in host and not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise EgressRefused(f"{host[:200]!r} is no host name")
    return Target(scheme, host, port)


def literal(host: str) -> Address | None:
    """The address that `host` spells; None for a name. Raises EgressRefused for every unusual spelling of an address.

    inet_aton reads 127.1, 0x7f000001, 017700000001 and 2130706433 as 127.0.0.1, and so do resolvers.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if _numeric(host) or ":" in host:
            raise EgressRefused(
                f"{host[:80]!r} is an address in an unusual spelling; write IPv4 as four decimal numbers and IPv6 without a zone"
            ) from None
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise EgressRefused(f"{host[:80]!r} names a zone: it is link-local, and only this host can reach it")
    return address


def _numeric(host: str) -> bool:
    """Would a resolver take it for an IPv4 address? It does when the last label is a number (WHATWG URL, "ends in a number")."""
    return bool(_NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]))


def why_not(address: Address) -> str:
    """Why no request may go to `address`; "" when it may."""
    inner = _wrapped(address)
    if inner is not None:
        reason = why_not(inner)
        return f"it wraps {inner}, and {reason}" if reason else ""
    if any(address in network for network in METADATA):
        return "it belongs to this host's network or its cloud's metadata service"
    for is_it, words_ in (
        (address.is_loopback, "it is this host itself"),
        (address.is_unspecified, "it is this host itself"),
        (address.is_multicast, "it is a multicast address"),
        (address.is_reserved, "it is reserved"),
        (not address.is_global or address in _ASSIGNED, "it is private"),
        (address.version == 6 and address not in _UNICAST, "it is outside of what the Internet uses"),
    ):
        if is_it:
            return words_
    return "it is an address of this host" if _is_own(address) else ""


def _wrapped(address: Address) -> Address | None:
    """The IPv4 address in an IPv6 one: mapped, compatible, NAT64, 6to4, Teredo."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _NAT64_LOCAL or (int(address) >> 32 == 0 and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_own(address: Address) -> bool:
    """To itself a host speaks from the very address it speaks to. Connecting a datagram socket sends nothing."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False  # no route: nothing will get there either


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Every address of a name. Raises RemoteAway."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise RemoteAway(f"the name {host} has no address: {getattr(error, 'strerror', None) or error}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve(target: Target, resolver: Resolver = system_resolver) -> list[str]:
    """The addresses to connect to, checked; nobody may resolve the name again. Raises EgressRefused, RemoteAway.

    One bad address refuses the name: which one a connection would take is chance.
    """
    allowed = allow_list()
    named = any(item.fits_name(target.host, target.port) for item in allowed)
    spelled = literal(target.host)
    texts = [str(spelled)] if spelled is not None else list(resolver(target.host, target.port))
    if not texts:
        raise RemoteAway(f"the name {target.host} has no address")
    for text in texts:
        _check(target, ipaddress.ip_address(text), named, allowed)
    return texts


def _check(target: Target, address: Address, named: bool, allowed: Sequence[Allowed]) -> None:
    if any(item.fits_address(address, target.port) for item in allowed):
        return
    where = target.host if target.host == str(address) else f"{target.host} ({address})"
    inner = _wrapped(address) or address
    if named and not any(inner in network for network in METADATA):
        return
    if reason := why_not(address):
        raise EgressRefused(
            f"no request may go to {where}: {reason}. An administrator can allow it in {_SETTING}", address=str(address)
        )
    if target.port < 1024 and target.port not in LOW_PORTS:
        raise EgressRefused(
            f"no request may go to port {target.port} of {where}: below 1024 only 80 and 443 are open. An administrator can"
            f" allow {target.host}:{target.port} in {_SETTING}"
        )
