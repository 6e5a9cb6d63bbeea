"""Grants: a subject, a role, a collection. There is nothing to edit: one is made or removed."""

from __future__ import annotations

from django.db import IntegrityError, transaction

from agent.protocol.errors import Conflict, NotFound
from controlplane.api import versions
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.rbac.models import Collection, Grant, Role
from controlplane.users.models import Organisation, Team, User

_SUBJECTS = {"user": User, "team": Team, "org": Organisation}


def create_grant(actor: Actor, subject_kind: str, subject_id: str, role: Role, collection: Collection) -> Grant:
    """Raises NotFound for an unknown subject and Conflict when the very grant exists."""
    model = _SUBJECTS.get(subject_kind)
    if model is None or not model._default_manager.filter(pk=subject_id).exists():
        raise NotFound(f"There is no {subject_kind} {subject_id}: a subject is a user, a team or an org, by id.")
    try:
        with transaction.atomic():
            row = Grant.objects.create(subject_kind=subject_kind, subject_id=subject_id, role=role, collection=collection)
            _record("grant.created", actor, row)
    except IntegrityError:
        raise Conflict(f"{subject_kind} {subject_id} has the role {role.name} on {collection.path} already.") from None
    return row


def delete_grant(actor: Actor, row: Grant, *, expected: int | None = None) -> None:
    versions.check(row, expected)
    with transaction.atomic():
        _record("grant.deleted", actor, row)
        row.delete()


def _record(kind: str, actor: Actor, row: Grant) -> None:
    data = {"subject": f"{row.subject_kind}/{row.subject_id}", "role": row.role.name, "collection": row.collection.path}
    record(kind, actor=actor, target=f"grant/{row.pk}", collection_path=row.collection.path, data=data)
