"""Operations on events. Rows carry their collection by value, so the engine filters on the path column itself."""

from __future__ import annotations

from django.db.models import Q

from controlplane.api.access import register
from controlplane.api.actor import Actor

OPERATIONS = {"Event": ["View", "Verify", "Compact"]}


def own_event(actor: Actor, operation: str) -> Q | None:
    """What one did oneself: the own sign-ins among it."""
    return Q(actor_kind="user", actor_id=actor.id) if operation == "Event View" and actor.kind == "user" else None


def register_all() -> None:
    register("Event", "events.Event", OPERATIONS["Event"], collection="@collection_path", own=own_event)
