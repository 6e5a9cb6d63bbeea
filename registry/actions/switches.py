"""Changing a switch of the whole registry."""

from __future__ import annotations

from django.db import transaction

from agent.protocol.errors import InvalidInput
from controlplane import events, rbac
from controlplane.api.actor import Actor
from registry.models import Setting
from registry.queries import switches


def switch(actor: Actor, **changes: bool) -> None:
    """Sets each named switch from now on, in every process. Raises InvalidInput, Denied."""
    rbac.require(actor, "Registry Update")
    if unknown := sorted(set(changes) - set(switches.SWITCHES)):
        raise InvalidInput(f"There is no switch {', '.join(unknown)}; there are: {', '.join(switches.SWITCHES)}.")
    with transaction.atomic():
        changed = {name: on for name, on in changes.items() if switches.value(name) != on}
        for name, on in sorted(changed.items()):
            Setting.objects.update_or_create(name=name, defaults={"value": on, "changed_by": actor.name})
        if changed:
            events.record("registry.updated", actor=actor, target="registry", data=changed)
