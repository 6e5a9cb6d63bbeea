"""Organisations, their teams and members. A team's members are always members of its organisation."""

from __future__ import annotations

from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.api import access, versions
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.users.models import Membership, Organisation, Team, TeamMembership, User

RowT = TypeVar("RowT", bound=models.Model)


def _save(row: RowT, taken: str) -> RowT:
    try:
        row.clean_fields(exclude={"id"})
    except ValidationError as error:
        problems = [{"field": name, "code": "invalid", "detail": " ".join(texts)} for name, texts in error.message_dict.items()]
        raise InvalidInput("Some fields cannot be accepted; see errors.", errors=problems) from None
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        raise Conflict(taken) from None
    return row


def create_organisation(actor: Actor, name: str, *, full_name: str = "", owner: User | None = None) -> Organisation:
    """A new organisation, with `owner` as its first owner. Raises InvalidInput or Conflict (name taken)."""
    with transaction.atomic():
        organisation = _save(Organisation(name=name.lower(), full_name=full_name), f"The name {name.lower()} is taken.")
        if owner is not None:
            Membership.objects.create(user=owner, organisation=organisation, is_owner=True)
        access.subject_created("org", organisation)
        data = {"name": organisation.name, "owner": owner.username if owner else None}
        record("organisation.created", actor=actor, target=f"organisation/{organisation.pk}", data=data)
    return organisation


def update_organisation(
    actor: Actor, organisation: Organisation, changes: dict[str, Any], *, expected: int | None = None
) -> Organisation:
    """Changes full_name."""
    _only(changes, {"full_name"})
    with transaction.atomic():
        versions.write(organisation, expected, **changes)
        record("organisation.updated", actor=actor, target=f"organisation/{organisation.pk}", data={"changes": changes})
    return organisation


def delete_organisation(actor: Actor, organisation: Organisation, *, expected: int | None = None) -> None:
    """Removes the organisation, its teams and all their grants. The one of everybody stays."""
    if organisation.everyone:
        raise Conflict("The organisation of everybody cannot be removed.")
    versions.check(organisation, expected)
    with transaction.atomic():
        for team in organisation.teams.all():
            access.subject_removed("team", team.pk)
        access.subject_removed("org", organisation.pk)
        key, name = organisation.pk, organisation.name
        organisation.delete()
        record("organisation.deleted", actor=actor, target=f"organisation/{key}", data={"name": name})


def add_member(actor: Actor, organisation: Organisation, user: User, *, is_owner: bool = False) -> Membership:
    """Makes `user` a member, or changes whether they own the organisation."""
    if organisation.everyone:
        raise Conflict("Everybody is in this organisation already; it has no owners.")
    with transaction.atomic():
        row, created = Membership.objects.update_or_create(user=user, organisation=organisation, defaults={"is_owner": is_owner})
        _record_member(
            actor, organisation, user, "organisation.member_added" if created else "organisation.member_changed", is_owner
        )
    return row


def remove_member(actor: Actor, organisation: Organisation, user: User) -> None:
    """Takes `user` out of the organisation and out of its teams."""
    with transaction.atomic():
        gone, _ = Membership.objects.filter(user=user, organisation=organisation).delete()
        if gone:
            TeamMembership.objects.filter(user=user, team__organisation=organisation).delete()
            _record_member(actor, organisation, user, "organisation.member_removed", False)


def _record_member(actor: Actor, organisation: Organisation, user: User, kind: str, is_owner: bool) -> None:
    data = {"organisation": organisation.name, "user": user.username, "is_owner": is_owner}
    record(kind, actor=actor, target=f"organisation/{organisation.pk}", data=data)


def create_team(actor: Actor, organisation: Organisation, name: str, *, description: str = "") -> Team:
    if organisation.everyone:
        raise Conflict("The organisation of everybody has no teams: make an organisation.")
    with transaction.atomic():
        row = Team(organisation=organisation, name=name.lower(), description=description)
        team = _save(row, f"{organisation.name} has a team named {name.lower()}.")
        access.subject_created("team", team)
        record("team.created", actor=actor, target=f"team/{team.pk}", data={"organisation": organisation.name, "name": team.name})
    return team


def update_team(actor: Actor, team: Team, changes: dict[str, Any], *, expected: int | None = None) -> Team:
    """Changes description."""
    _only(changes, {"description"})
    with transaction.atomic():
        versions.write(team, expected, **changes)
        record("team.updated", actor=actor, target=f"team/{team.pk}", data={"changes": changes})
    return team


def delete_team(actor: Actor, team: Team, *, expected: int | None = None) -> None:
    versions.check(team, expected)
    with transaction.atomic():
        access.subject_removed("team", team.pk)
        key, name = team.pk, team.name
        team.delete()
        record("team.deleted", actor=actor, target=f"team/{key}", data={"name": name})


def add_team_member(actor: Actor, team: Team, user: User) -> TeamMembership:
    """Puts `user` into the team. Raises Conflict when they are not in its organisation."""
    with transaction.atomic():
        if not Membership.objects.filter(user=user, organisation_id=team.organisation_id).exists():
            raise Conflict(f"{user.username} is not in the organisation {team.organisation.name}: add them there first.")
        row, created = TeamMembership.objects.get_or_create(team=team, user=user)
        if created:
            record("team.member_added", actor=actor, target=f"team/{team.pk}", data={"team": team.name, "user": user.username})
    return row


def remove_team_member(actor: Actor, team: Team, user: User) -> None:
    with transaction.atomic():
        gone, _ = TeamMembership.objects.filter(team=team, user=user).delete()
        if gone:
            record("team.member_removed", actor=actor, target=f"team/{team.pk}", data={"team": team.name, "user": user.username})


def _only(changes: dict[str, Any], allowed: set[str]) -> None:
    if unknown := set(changes) - allowed:
        raise InvalidInput(f"Cannot be changed: {', '.join(sorted(unknown))}.")
