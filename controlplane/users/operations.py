"""Operations on people, and what a person holds without a grant: oneself, own tokens and sessions, owned organisations."""

from __future__ import annotations

from django.db.models import Q

from controlplane.api.access import register
from controlplane.api.actor import Actor

OPERATIONS = {
    "User": ["View", "Create", "Update", "Update Self", "Set Password", "Delete"],
    "Token": ["View", "Create", "Revoke"],
    "Session": ["View", "End"],
    "Organisation": ["View", "Create", "Update", "Delete", "Manage Members"],
    "Team": ["View", "Create", "Update", "Delete", "Manage Members"],
}


def own_user(actor: Actor, operation: str) -> Q | None:
    if operation in {"User View", "User Update Self", "Token Create"}:
        return Q(pk=actor.id)
    return None


def own_child(actor: Actor, operation: str) -> Q | None:
    return Q(user_id=actor.id)


def own_organisation(actor: Actor, operation: str) -> Q | None:
    owned = Q(memberships__in=_memberships(actor, owner=True))
    if operation == "Organisation View":
        return Q(memberships__in=_memberships(actor)) | Q(everyone=True)
    if operation in {"Organisation Update", "Organisation Manage Members", "Team Create", "Team View"}:
        return owned
    return None


def own_team(actor: Actor, operation: str) -> Q | None:
    if operation == "Team View":
        return Q(organisation__memberships__in=_memberships(actor))
    return Q(organisation__memberships__in=_memberships(actor, owner=True))


def _memberships(actor: Actor, *, owner: bool = False) -> object:
    from controlplane.users.models import Membership  # the app registry is not ready while apps register

    rows = Membership.objects.filter(user_id=actor.id)
    return rows.filter(is_owner=True) if owner else rows


def register_all() -> None:
    register("User", "users.User", OPERATIONS["User"], collection="", own=own_user, admin_only=True)
    register("Token", "users.Token", OPERATIONS["Token"], collection="", own=own_child, admin_only=True)
    register("Session", "users.UserSession", OPERATIONS["Session"], collection="", own=own_child, admin_only=True)
    register(
        "Organisation", "users.Organisation", OPERATIONS["Organisation"], collection="", own=own_organisation, admin_only=True
    )
    register("Team", "users.Team", OPERATIONS["Team"], collection="", own=own_team, admin_only=True)
