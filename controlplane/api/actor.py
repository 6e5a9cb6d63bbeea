"""Who is asking, by value: an Actor outlives the row it was made from and crosses threads and jobs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from django.conf import settings
from django.http import HttpRequest

Kind = Literal["user", "node", "robot", "system", "anonymous"]


@dataclass(frozen=True, slots=True)
class Actor:
    """One caller.

    `scopes` is None when nothing narrows the owner's rights, else operation names or globs ("Service View", "Repository *").
    `user` is the User row when there is one. `address` is the caller's IP address, "" when it came from no socket.
    """

    kind: Kind
    id: str
    name: str
    is_admin: bool = False
    scopes: frozenset[str] | None = None
    user: Any | None = None
    address: str = ""
    token_id: str = ""  # of the access token it came with, "" for a session

    def in_scope(self, operation: str) -> bool:
        """Do the token's scopes let `operation` through? Says nothing about the owner's rights."""
        return self.scopes is None or any(fnmatchcase(operation, pattern) for pattern in self.scopes)


SYSTEM = Actor("system", "system", "system", is_admin=True)
ANONYMOUS = Actor("anonymous", "", "anonymous")


def address_of(request: HttpRequest) -> str:
    """The caller's address: the peer's, or the last hop in X-Forwarded-For that is no trusted proxy of ours."""
    peer = str(request.META.get("REMOTE_ADDR") or "")
    if not settings.TRUSTED_PROXIES or not _trusted(peer):
        return peer
    for hop in reversed([part.strip() for part in str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",") if part.strip()]):
        if not _trusted(hop):
            return hop
    return peer


def _trusted(address: str) -> bool:
    if address == "":
        return "unix" in settings.TRUSTED_PROXIES
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in ipaddress.ip_network(item, strict=False) for item in settings.TRUSTED_PROXIES if item != "unix")


def actor_of(request: Any) -> Actor:
    """The Actor behind a Django or REST request: of the token when one came, else of the session, else anonymous."""
    auth = getattr(request, "auth", None)
    if isinstance(auth, Actor):
        return auth
    address = address_of(getattr(request, "_request", request))
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return Actor("anonymous", "", "anonymous", address=address)
    return actor_of_user(user, address=address)


def actor_of_user(user: Any, *, address: str = "", scopes: frozenset[str] | None = None, token_id: str = "") -> Actor:
    """The Actor of a User row."""
    return Actor("user", str(user.pk), user.username, bool(user.is_admin), scopes, user, address, token_id)
