"""From a robot's secret to an Actor. A secret reads `wharfbot_<id>_<43 characters>`; of the 43 only a hash is stored."""

from __future__ import annotations

import hmac
import re
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from controlplane.api.actor import Actor
from controlplane.users import credentials
from registry.models import Robot
from registry.queries import robots

PREFIX = "wharfbot_"
_TEXT = re.compile(r"\Awharfbot_([0-9a-z]{25})_([A-Za-z0-9_-]{43})\Z")
_COALESCE = timedelta(seconds=60)


def text_of(row: Robot, secret: str) -> str:
    return f"{PREFIX}{row.pk}_{secret}"


def authenticate_basic(username: str, secret: str, *, address: str = "") -> Actor | None:
    """Whoever logs in at the registry: a person as controlplane.users.credentials has it, or a robot. Raises Throttled."""
    if not secret.startswith(PREFIX):
        return credentials.authenticate_basic(username, secret, address=address)
    row = _find(secret)
    if row is None or not hmac.compare_digest(row.full_name.encode(), username.lower().encode()):
        return None
    return _admit(row, address)


def authenticate_bearer(text: str, *, address: str = "") -> Actor | None:
    """The secret alone, as a bearer token."""
    row = _find(text)
    return None if row is None else _admit(row, address)


def _find(text: str) -> Robot | None:
    match = _TEXT.match(text)
    row = Robot.objects.filter(pk=match[1]).first() if match else None
    stored = row.secret_hash if row is not None else credentials.digest("")
    given = credentials.digest(match[2] if match else "-")
    return row if hmac.compare_digest(stored, given) else None


def _admit(row: Robot, address: str) -> Actor | None:
    if not row.usable or (row.cidrs and not credentials.in_networks(address, row.cidrs)):
        return None
    now = timezone.now()
    if row.last_used_at is None or now - row.last_used_at >= _COALESCE:
        due = Q(last_used_at=None) | Q(last_used_at__lt=now - _COALESCE)
        Robot.objects.filter(due, pk=row.pk).update(last_used_at=now, last_used_address=address[:45])
    return robots.actor(row, address)
