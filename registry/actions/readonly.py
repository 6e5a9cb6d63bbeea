"""Read-only mode: an administrator's switch, with a reason that every refused pusher reads. Collection goes on."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import InvalidInput
from controlplane import events
from controlplane.api.actor import Actor
from registry.models import ReadOnly
from registry.queries import standing


def enable(actor: Actor, reason: str) -> ReadOnly:
    """Refuse pushes and deletes from now on; pulls go on. Raises InvalidInput."""
    reason = reason.strip()
    if not 1 <= len(reason) <= 500:
        raise InvalidInput("say in 1 to 500 characters why the registry is read-only: pushers will read it", field="reason")
    with transaction.atomic():
        row, _ = ReadOnly.objects.update_or_create(pk=1, defaults={"reason": reason, "since": timezone.now(), "by": actor.name})
        standing.changed()
        events.record("read_only.enabled", actor=actor, target="registry", data={"reason": reason})
    return row


def disable(actor: Actor) -> None:
    """Take pushes and deletes again."""
    with transaction.atomic():
        if ReadOnly.objects.all().delete()[0]:
            standing.changed()
            events.record("read_only.disabled", actor=actor, target="registry")
