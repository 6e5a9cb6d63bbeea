"""What robots may do: read from the robot's own row, each time, so that what is withdrawn is gone at once (docs/adr/0025)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db.models import Q
from django.utils import timezone

from controlplane.api.actor import Actor
from controlplane.users.credentials import in_networks
from registry.models import Robot

# action -> the operations on repositories that it gives
ACTIONS: Mapping[str, frozenset[str]] = {
    "pull": frozenset({"Repository View", "Repository Pull"}),
    "push": frozenset({"Repository View", "Repository Push"}),
    "delete": frozenset({"Repository View", "Repository Tag Delete"}),
    "create": frozenset({"Repository View", "Repository Create"}),
}
GLOB = re.compile(r"\A[a-z0-9*?][a-z0-9._/*?-]{0,254}\Z")


@lru_cache(maxsize=1024)
def pattern(glob: str) -> str:
    """A regular expression for Python, SQLite and PostgreSQL alike: `*` is any text, "/" too, `?` one character."""
    parts = {"*": ".*", "?": "."}
    return "^" + "".join(parts.get(character, re.escape(character)) for character in glob) + "$"


def matches(glob: str, full_name: str) -> bool:
    return re.match(pattern(glob), full_name) is not None


def may(row: Robot, action: str, full_name: str) -> bool:
    return row.usable and any(action in right["actions"] and matches(right["repositories"], full_name) for right in row.rights)


def may_create(robot_id: str, full_name: str) -> bool:
    row = Robot.objects.filter(pk=robot_id).first()
    return row is not None and may(row, "create", full_name)


def held(robot_id: str, operation: str) -> Q:
    """The repositories in which the robot holds `operation`."""
    nothing = Q(pk__in=())
    row = Robot.objects.filter(pk=robot_id).first()
    if row is None or not row.usable:
        return nothing
    condition = nothing
    for right in row.rights:
        if any(operation in ACTIONS[action] for action in right["actions"]):
            condition |= _named(right["repositories"])
    return condition


def _named(glob: str) -> Q:
    if not {"*", "?"} & set(glob):
        return Q(full_name=glob)
    if glob.endswith("*") and not {"*", "?"} & set(glob[:-1]):
        return Q(full_name__startswith=glob[:-1])
    return Q(full_name__regex=pattern(glob))


def actor(row: Robot, address: str = "") -> Actor:
    return Actor("robot", row.pk, row.full_name, address=address, token_id=generation(row.secret_hash))


def generation(secret_hash: str) -> str:
    """Tells one secret from the next one; public."""
    return secret_hash[:12]


def actor_of(robot_id: str) -> Actor | None:
    """None once the robot is gone, disabled or expired."""
    row = Robot.objects.filter(pk=robot_id).first()
    return actor(row) if row is not None and row.usable else None


def seconds_left(robot_id: str, most: int) -> int:
    """How long a token for it may live: `most`, or until its end, but 60 at least, as clients expect of every token."""
    end = Robot.objects.filter(pk=robot_id).values_list("expires_at", flat=True).first()
    return most if end is None else max(60, min(most, int((end - timezone.now()).total_seconds())))


@dataclass(frozen=True, slots=True)
class _Bounds:
    generation: str
    expires_at: datetime | None
    cidrs: tuple[str, ...]


_bounds: dict[str, tuple[int, _Bounds | None]] = {}
_lock = threading.Lock()
_MOST = 4096


def admitted(robot_id: str, of_secret: str, address: str, version: int) -> bool:
    """May what the robot got with that secret (its generation) be used now, from `address`? One read a policy `version`."""
    known = _bounds.get(robot_id)
    if known is None or known[0] != version:
        row = Robot.objects.filter(pk=robot_id, disabled=False).values_list("secret_hash", "expires_at", "cidrs").first()
        known = (version, None if row is None else _Bounds(generation(row[0]), row[1], tuple(row[2])))
        with _lock:
            if len(_bounds) >= _MOST:
                _bounds.clear()
            _bounds[robot_id] = known
    bounds = known[1]
    if (
        bounds is None
        or bounds.generation != of_secret
        or (bounds.expires_at is not None and bounds.expires_at <= timezone.now())
    ):
        return False
    return not bounds.cidrs or in_networks(address, list(bounds.cidrs))


def text_of(rights: Iterable[Mapping[str, Any]]) -> str:
    """ "team/*: pull, push; team/base: pull" for people."""
    return "; ".join(f"{right['repositories']}: {', '.join(right['actions'])}" for right in rights)
