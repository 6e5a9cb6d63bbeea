"""Operations on jobs. They live at the root of the tree; who made a job may always see and cancel it."""

from __future__ import annotations

from django.db.models import Q

from controlplane.api.access import register
from controlplane.api.actor import Actor

OPERATIONS = {"Job": ["View", "Run", "Cancel", "Retry", "Schedule"]}


def own(actor: Actor, operation: str) -> Q | None:
    """The jobs an actor holds by having made them."""
    if actor.kind == "user" and operation.removeprefix("Job ") in {"View", "Cancel"}:
        return Q(actor_kind="user", actor_id=actor.id)
    return None


def register_all() -> None:
    register("Job", "jobs.Job", OPERATIONS["Job"], collection="", own=own)
