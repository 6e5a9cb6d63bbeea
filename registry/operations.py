"""Operations on repositories, and who holds them without a grant: everybody on public ones, owners in their namespace."""

from __future__ import annotations

from django.db.models import Q

from controlplane.api.access import register
from controlplane.api.actor import Actor

OPERATIONS = {
    "Repository": ["View", "Pull", "Push", "Scan", "Tag Delete", "Create", "Update", "Access", "Delete", "Policy"],
    "Robot": ["View", "Create", "Update", "Delete"],
    "Registry": ["View", "Update", "Collect Garbage", "Rotate Keys", "Maintain", "Proxy"],
}
_OF_PUBLIC = frozenset({"Repository View", "Repository Pull"})


def own_repository(actor: Actor, operation: str) -> Q | None:
    """A user's namespace is theirs, an organisation's namespace is its owners'."""
    public = Q(visibility="public") if operation in _OF_PUBLIC else None
    if actor.kind == "robot":
        from registry.queries import robots  # the app registry is not ready while apps register

        mine = robots.held(actor.id, operation)
    elif actor.kind == "user":
        mine = _in_own_namespace(actor)
    else:
        return public
    return mine if public is None else mine | public


def own_robot(actor: Actor, operation: str) -> Q | None:
    """The robots of a user's namespace are theirs, an organisation's its owners'."""
    return _in_own_namespace(actor) if actor.kind == "user" else None


def _in_own_namespace(actor: Actor) -> Q:
    from controlplane.users.models import Membership  # the app registry is not ready while apps register

    owned = Membership.objects.filter(user_id=actor.id, is_owner=True).values("organisation_id")
    return Q(namespace__kind="user", namespace__owner_id=actor.id) | Q(
        namespace__kind="organisation", namespace__owner_id__in=owned
    )


def register_all() -> None:
    register("Repository", "registry.Repository", OPERATIONS["Repository"], own=own_repository)
    register("Robot", "registry.Robot", OPERATIONS["Robot"], own=own_robot)
    register("Registry", "", OPERATIONS["Registry"], collection="", admin_only=True)
