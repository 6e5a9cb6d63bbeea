"""From a secret to an Actor: plain functions over the database, for Django views and for raw ASGI apps (called in threads).

A token's text is `wharf_<id>_<43 characters>`: the id finds the row, the rest is 256 random bits in base64url.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from datetime import timedelta

from django.contrib.auth import authenticate
from django.contrib.auth.hashers import make_password
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from agent.protocol.errors import Throttled
from controlplane.api.actor import Actor, actor_of_user, address_of
from controlplane.users import failures
from controlplane.users.models import Token, User

_TEXT = re.compile(r"\Awharf_([0-9a-z]{25})_([A-Za-z0-9_-]{43})\Z")
_COALESCE = timedelta(seconds=60)


def new_secret() -> str:
    """43 characters with 256 random bits."""
    return secrets.token_urlsafe(32)


def text_of(token_id: str, secret: str) -> str:
    return f"wharf_{token_id}_{secret}"


def digest(secret: str) -> str:
    """What is stored of a token's secret: sha256, since 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate_bearer(text: str, *, address: str = "") -> Actor | None:
    """The Actor of a token, None when it is malformed, unknown, expired, revoked, of a disabled user or from elsewhere."""
    match = _TEXT.match(text)
    if match is None:
        return None
    row = Token.objects.select_related("user").filter(pk=match[1]).first()
    stored = row.secret_hash if row is not None else digest("")
    if not hmac.compare_digest(stored, digest(match[2])) or row is None:
        return None
    if not _usable(row, address):
        return None
    _touch(row, address)
    scopes = None if row.scopes is None else frozenset(row.scopes)
    return actor_of_user(row.user, address=address, scopes=scopes, token_id=row.pk)


def _usable(token: Token, address: str) -> bool:
    if token.revoked_at is not None or not token.user.is_active:
        return False
    if token.expires_at is not None and token.expires_at <= timezone.now():
        return False
    return not token.cidrs or in_networks(address, token.cidrs)


def in_networks(address: str, networks: list[str]) -> bool:
    """Is `address` in one of `networks`? IPv4 addresses mapped into IPv6 count as IPv4."""
    try:
        ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in ipaddress.ip_network(network, strict=False) for network in networks)


def _touch(token: Token, address: str) -> None:
    """Notes the use, at most once a minute a token and in one conditional UPDATE: reads must not queue behind each other."""
    now = timezone.now()
    if token.last_used_at is not None and now - token.last_used_at < _COALESCE:
        return
    due = Q(last_used_at=None) | Q(last_used_at__lt=now - _COALESCE)
    Token.objects.filter(due, pk=token.pk).update(last_used_at=now, last_used_address=address[:45])


def check_password(username: str, password: str, *, address: str = "", request: HttpRequest | None = None) -> User | None:
    """The active user with that password, None otherwise, in the same time for unknown names.

    Raises Throttled while this account is locked for this address (django-axes: account and address together), or while too many
    attempts for whatever accounts came from the address; the latter before anything is hashed.
    """
    if request is None:
        request = HttpRequest()
        request.META = {"REMOTE_ADDR": address or "127.0.0.1", "SERVER_NAME": "wharf", "SERVER_PORT": "0"}
        request.path = request.path_info = "/"
        request.method = "POST"
    source = address_of(request)
    failures.check(source)
    user = authenticate(request, username=username.strip().lower()[:150], password=password)
    if user is None:
        failures.note(source)
    if user is None and getattr(request, "axes_locked_out", False):
        raise Throttled(
            "Too many failed attempts for this account from your address: wait and try again.", retry_after=_cooloff(request)
        )
    return user if isinstance(user, User) else None


def _cooloff(request: HttpRequest) -> float:
    from axes.helpers import get_cool_off

    span = get_cool_off(request)
    return span.total_seconds() if span is not None else 3600.0


def authenticate_basic(username: str, secret: str, *, address: str = "") -> Actor | None:
    """The Actor for `docker login`: a password, or a token's text with its owner's name. Raises Throttled when locked out."""
    if secret.startswith("wharf_") and _TEXT.match(secret):
        actor = authenticate_bearer(secret, address=address)
        return actor if actor is not None and hmac.compare_digest(actor.name.encode(), username.lower().encode()) else None
    if not secret or len(secret) > 4096:
        make_password("x")
        return None
    user = check_password(username, secret, address=address)
    return None if user is None else actor_of_user(user, address=address)
