"""Roles: edited in place, with the old set kept as a version."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.api import versions
from controlplane.api.access import catalogue
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.rbac.models import SEGMENT, Role, RoleVersion


def checked(operations: Any) -> dict[str, dict[str, list[str]]]:
    """`operations` with every type, verb and gate found in the catalogue; sorted. Raises InvalidInput naming what is unknown."""
    if not isinstance(operations, dict):
        raise InvalidInput('Operations are written {"Service": {"Create": ["Host Bind Mounts"]}}.')
    known = catalogue()
    result: dict[str, dict[str, list[str]]] = {}
    for type_name, verbs in sorted(operations.items()):
        if type_name not in known or not isinstance(verbs, dict):
            raise InvalidInput(f"There is no type {type_name!r} in the catalogue.")
        for verb, gates in sorted(verbs.items()):
            result.setdefault(type_name, {})[verb] = _gates(type_name, verb, gates)
    return result


def _gates(type_name: str, verb: str, gates: Any) -> list[str]:
    resource = catalogue()[type_name]
    if verb not in resource.operations:
        raise InvalidInput(f"There is no operation {type_name} {verb}.")
    if not isinstance(gates, list) or not set(gates) <= set(resource.gates.get(verb, ())):
        raise InvalidInput(f"The gates of {type_name} {verb} are: {', '.join(resource.gates.get(verb, ())) or 'none'}.")
    return sorted(set(gates))


def create_role(actor: Actor, name: str, operations: Any, *, description: str = "") -> Role:
    """A new role. Raises InvalidInput (name, unknown operations) or Conflict (name taken)."""
    try:
        SEGMENT(name)
    except ValidationError as error:
        raise InvalidInput(" ".join(error.messages)) from None
    row = Role(name=name, description=description, operations=checked(operations))
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            record("role.created", actor=actor, target=f"role/{row.pk}", data={"name": name, "operations": row.operations})
    except IntegrityError:
        raise Conflict(f"There is a role named {name}.") from None
    return row


def update_role(
    actor: Actor, role: Role, *, operations: Any = None, description: str | None = None, expected: int | None = None
) -> Role:
    """Changes what a role allows, for everybody who holds it, at once. Built-in roles cannot be edited."""
    if role.system:
        raise Conflict(f"{role.name} is built in: make a role of your own from it.")
    changes: dict[str, Any] = {}
    if operations is not None:
        changes["operations"] = checked(operations)
    if description is not None:
        changes["description"] = description
    before, number = role.operations, role.version
    with transaction.atomic():
        versions.write(role, number if expected is None else expected, **changes)
        RoleVersion.objects.create(role=role, number=number, operations=before, replaced_by=actor.name)
        record("role.updated", actor=actor, target=f"role/{role.pk}", data={"name": role.name, "before": before, **changes})
    return role


def delete_role(actor: Actor, role: Role, *, expected: int | None = None) -> None:
    """Removes a role that no grant uses. Raises Conflict otherwise."""
    if role.system:
        raise Conflict(f"{role.name} is built in.")
    versions.check(role, expected)
    try:
        with transaction.atomic():
            key, name = role.pk, role.name
            role.delete()
            record("role.deleted", actor=actor, target=f"role/{key}", data={"name": name})
    except ProtectedError:
        raise Conflict(f"{role.name} is used by {role.grants.count()} grants: remove them first.") from None
