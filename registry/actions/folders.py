"""The collections of repositories, one a component of their names, and the grants on them, which a deletion takes away and its
undoing gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence

from agent.protocol.errors import NotFound
from controlplane.api.actor import Actor
from controlplane.rbac.actions.grants import create_grant
from controlplane.rbac.models import Collection, Grant, Role
from registry.models import Namespace, Repository
from registry.seed import COLLECTION

Former = dict[str, str]  # {"kind", "subject", "role", "path"}: ids, and where the grant stood


def child(parent: Collection, component: str) -> tuple[Collection, bool]:
    """The folder below `parent`, and whether it was made just now."""
    # Collection names end at 100 characters, components of repository names do not.
    name = component if len(component) <= 100 else f"{component[:83]}-{hashlib.sha256(component.encode()).hexdigest()[:16]}"
    return Collection.objects.get_or_create(path=f"{parent.path}{name}/", defaults={"name": name, "parent": parent})


def leaf(namespace: Namespace, name: str) -> tuple[Collection, set[str]]:
    """The folder of the repository `name` in `namespace`, and the paths that were made for it just now."""
    collection, made = namespace.collection, set()
    for component in name.split("/") if name else ():
        collection, new = child(collection, component)
        if new:
            made.add(collection.path)
    return collection, made


def prune(collection: Collection) -> list[Former]:
    """Remove the leaf and the empty folders above it, up to the namespace; returns the grants that went with them.

    A later repository of that name inherits none.
    """
    former: list[Former] = []
    while not (
        Namespace.objects.filter(collection=collection).exists()
        or Repository.objects.filter(collection=collection).exists()
        or collection.children.exists()
    ):
        for row in Grant.objects.filter(collection=collection, system=False).order_by("created_at", "id"):
            former.append({"kind": row.subject_kind, "subject": row.subject_id, "role": row.role_id, "path": collection.path})
        parent = collection.parent
        collection.delete()
        if parent is None or parent.path == COLLECTION:
            break
        collection = parent
    return former


def give_back(actor: Actor, former: Sequence[Mapping[str, str]], made: Names[str]) -> tuple[int, int]:
    """(how many grants stand again, how many do not). Within the restoring transaction.

    Only in the folders `made` by it: in one that somebody made meanwhile they would reach what is not the deleted repository's.
    A subject or a role that is gone by now has nothing to come back to.
    """
    paths = {row.path: row for row in Collection.objects.filter(path__in=made)}
    roles = Role.objects.in_bulk({item["role"] for item in former})
    back = 0
    for item in former:
        folder, role = paths.get(item["path"]), roles.get(item["role"])
        if folder is None or role is None:
            continue
        try:
            create_grant(actor, item["kind"], item["subject"], role, folder)
        except NotFound:
            continue
        back += 1
    return back, len(former) - back
