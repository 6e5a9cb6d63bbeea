"""Operations on repositories, and who holds them without a grant: everybody on public ones, owners in their namespace."""

from __future__ import annotations

from django.db.models import Q

from controlplane.api.access import register
from controlplane.api.actor import Actor

OPERATIONS = {
    "Repository": ["View", "Pull", "Push", "Scan", "Tag Delete", "Create", "Update", "Access", "Delete", "Policy"],
    "Registry": ["View", "Collect Garbage", "Rotate Keys", "Maintain", "Proxy"],
}
_OF_PUBLIC = frozenset({"Repository View", "Repository Pull"})


def own_repository(actor: Actor, operation: str) -> Q | None:
    """A user's namespace is theirs, an organisation's namespace is its owners'."""
    public = Q(visibility="public") if operation in _OF_PUBLIC else None
    if actor.kind != "user":
        return public
    from controlplane.users.models import Membership  # the app registry is not ready while apps register

    owned = Membership.objects.filter(user_id=actor.id, is_owner=True).values("organisation_id")
    mine = Q(namespace__kind="user", namespace__owner_id=actor.id) | Q(
        namespace__kind="organisation", namespace__owner_id__in=owned
    )
    return mine if public is None else mine | public


def register_all() -> None:
    register("Repository", "registry.Repository", OPERATIONS["Repository"], own=own_repository)
    register("Registry", "", OPERATIONS["Registry"], collection="", admin_only=True)
