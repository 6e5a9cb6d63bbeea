"""The engine behind controlplane.api.access: reads the actor's grants once a question, decides in controlplane.rbac.rights.

Administrators pass every question that their token's scopes let through. Rows that an actor holds by a relation (`own` of the
type's registration) count like a grant on that row.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import ProtectedError, Q

from agent.protocol.errors import Conflict
from controlplane.api.access import Decision, Resource, resource_of, split
from controlplane.api.actor import Actor
from controlplane.rbac import rights
from controlplane.rbac.collections import PRIVATE, ROOT, private_of
from controlplane.rbac.models import Collection, Grant, Role
from controlplane.rbac.rights import Held
from controlplane.users.models import Organisation, TeamMembership, User


def held_by(actor: Actor) -> list[Held]:
    """Every grant whose subject is the actor, one of their teams, or one of their organisations (everyone included).

    Robots hold none: what a robot may do is written on it, a relation like an owner's (docs/adr/0025).
    """
    if actor.kind != "user" or not actor.id:
        return []
    teams = TeamMembership.objects.filter(user_id=actor.id).values("team_id")
    organisations = Organisation.objects.filter(Q(memberships__user_id=actor.id) | Q(everyone=True)).values("id")
    return _held(
        Q(subject_kind="user", subject_id=actor.id)
        | Q(subject_kind="team", subject_id__in=teams)
        | Q(subject_kind="org", subject_id__in=organisations)
    )


def held_through(organisation_id: str, team_id: str = "") -> list[Held]:
    """The grants that every member of the organisation holds, or every member of its team: theirs, and those to everyone."""
    organisations = Organisation.objects.filter(Q(pk=organisation_id) | Q(everyone=True)).values("id")
    found = Q(subject_kind="org", subject_id__in=organisations)
    return _held(found | Q(subject_kind="team", subject_id=team_id) if team_id else found)


def _held(wanted: Q) -> list[Held]:
    columns = ("role__name", "collection__path", "role__operations", "subject_kind", "subject_id")
    rows = Grant.objects.filter(wanted).values_list(*columns)
    return [Held(role, path, operations, f"{kind}/{subject}") for role, path, operations, kind, subject in rows]


def path_of(target: Any) -> str:
    """The collection path at which `target` is judged."""
    if target is None or isinstance(target, type):
        return ROOT
    if isinstance(target, Collection):
        return target.path
    if hasattr(target, "access_collection"):
        found = target.access_collection()
        return str(getattr(found, "path", found))
    resource = resource_of(type(target))
    if resource is None or not resource.collection:
        return ROOT
    value: Any = target
    for step in resource.collection.removeprefix("@").split("__"):
        value = getattr(value, step)
    return value if isinstance(value, str) else str(value.path)


def explain(actor: Actor, operation: str, target: Any, gates: frozenset[str]) -> Decision:
    """See controlplane.api.access.explain."""
    resource, verb = split(operation)
    path = path_of(target)
    if not actor.in_scope(operation):
        reason, hint = f"The token's scopes do not include {operation}.", "Use a token with that scope."
        return Decision(False, reason, operation, path, can_view=_sees(actor, target), hint=hint)
    if actor.is_admin:
        return Decision(True, "Administrators may do everything.", operation, path, can_view=True)
    held = held_by(actor)
    verdict = rights.judge(held, resource.name, verb, path, gates)
    grants = tuple({"role": grant.role, "collection": grant.path, "subject": grant.subject} for grant in verdict.deciding)
    if verdict.allowed:
        reason = f"Granted by the role {grants[0]['role']} on {grants[0]['collection']}."
        return Decision(True, reason, operation, path, grants, can_view=True)
    if not gates and _owns(actor, operation, target):
        return Decision(True, "Held by a relation, not by a grant.", operation, path, can_view=True)
    reason, hint = _refusal(operation, path, verdict)
    missing = tuple(sorted(verdict.missing))
    return Decision(False, reason, operation, path, grants, missing, _sees(actor, target, held), hint)


def _refusal(operation: str, path: str, verdict: rights.Verdict) -> tuple[str, str]:
    """(what is missing, where a grant would give it)."""
    names = ", ".join(sorted(verdict.missing))
    what = f"{operation} [{names}]" if names else operation
    hint = f"A grant of a role with {what} on {path} or a collection above it would allow it."
    if verdict.deciding:
        return f"{operation} on {path} is granted, but not with: {names}.", hint
    return f"No grant gives {operation} on {path}.", hint


def _owns(actor: Actor, operation: str, target: Any) -> bool:
    """Does the actor hold `operation` on the saved row `target` by a relation?"""
    if not isinstance(target, models.Model) or target.pk is None:
        return False
    resource = resource_of(type(target))
    condition = resource.own(actor, operation) if resource and resource.own else None
    return condition is not None and type(target)._default_manager.filter(condition, pk=target.pk).exists()


def _sees(actor: Actor, target: Any, held: list[Held] | None = None) -> bool:
    """Does the actor hold the View of the target's own type? True where the target is no row."""
    if not isinstance(target, models.Model):
        return True
    resource = resource_of(type(target))
    if resource is None:
        return False
    operation = f"{resource.name} View"
    if not actor.in_scope(operation):
        return False
    if actor.is_admin:
        return True
    found = rights.judge(held_by(actor) if held is None else held, resource.name, "View", path_of(target))
    return found.allowed or _owns(actor, operation, target)


def visible(actor: Actor, queryset: Any, operation: str) -> Any:
    """See controlplane.api.access.visible."""
    resource, verb = split(operation)
    if not actor.in_scope(operation):
        return queryset.none()
    if actor.is_admin:
        return queryset
    own_type = resource_of(queryset.model) or resource
    paths = rights.reachable(held_by(actor), resource.name, verb)
    condition = _below(own_type, paths)
    own = own_type.own(actor, operation) if own_type.own else None
    if own is None:
        return queryset.filter(condition)
    # a subquery, so that a relation with many rows neither doubles rows nor disturbs the caller's ordering and paging
    return queryset.filter(condition | Q(pk__in=queryset.model._default_manager.filter(own).values("pk")))


def _below(resource: Resource, paths: list[str]) -> Q:
    nothing = Q(pk__in=())
    if ROOT in paths:
        return ~nothing
    if not resource.collection:
        return nothing
    column = resource.collection[1:] if resource.collection.startswith("@") else f"{resource.collection}__path"
    condition = nothing
    for path in paths:
        condition |= Q(**{f"{column}__startswith": path})
    return condition


def subject_created(kind: str, subject: Any) -> None:
    """A new user gets a private collection and the default role on it."""
    from django.conf import settings

    if kind != "user":
        return
    path = f"{PRIVATE}{subject.username}/"
    if Collection.objects.filter(path__iexact=path).exists():
        raise Conflict(f"{path} holds things of an earlier user of that name: move or remove them first.")
    Grant.objects.get_or_create(
        subject_kind="user",
        subject_id=subject.pk,
        role=Role.objects.get(name=settings.DEFAULT_NEW_USER_ROLE),
        collection=private_of(subject),
        defaults={"system": True},
    )


def subject_removed(kind: str, subject_id: str) -> None:
    """A removed subject leaves no grants behind: its id must never match a later one."""
    Grant.objects.filter(subject_kind=kind, subject_id=subject_id).delete()
    if kind != "user":
        return
    name = User.objects.filter(pk=subject_id).values_list("username", flat=True).first()
    try:
        Collection.objects.filter(path=f"{PRIVATE}{name}/").delete()
    except ProtectedError:
        return  # things live in it: it stays, and nobody gets that name before they are gone
