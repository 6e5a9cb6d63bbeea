"""Giving and taking rights in one repository or one namespace. Underneath they are grants in the one tree of collections."""

from __future__ import annotations

from agent.protocol.errors import Denied, NotFound
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.rbac.actions.grants import create_grant, delete_grant
from controlplane.rbac.models import Collection, Grant, Role
from registry.models import Repository
from registry.queries import access
from registry.queries.sharing import LEVELS
from registry.queries.subjects import subject

_OURS = frozenset({"Repository", "Robot"})


def give(actor: Actor, repository: Repository, kind: str, name: str, role_name: str, *, whole_namespace: bool = False) -> Grant:
    """`kind` and `name` of the subject: user alice, team acme/web, org acme. `role_name`: read, read-write, admin, or a role.

    Nobody gives what they do not hold there themselves. Raises InvalidInput, NotFound, Denied, Conflict.
    """
    target = repository.namespace.collection if whole_namespace else repository.collection
    _require(actor, repository, target, "Repository Access")
    role = Role.objects.filter(name=LEVELS.get(role_name, role_name)).first()
    if role is None:
        raise NotFound(f"there is no role {role_name!r}; say {', '.join(LEVELS)}, or the name of a role")
    _check_role(actor, repository, target, role)
    return create_grant(actor, kind, subject(kind, name).pk, role, target)


def take(actor: Actor, repository: Repository, grant_id: str) -> None:
    """Withdraw a grant that stands on the repository or its namespace; it is worth nothing from the next request on."""
    near = [repository.collection_id, repository.namespace.collection_id]
    row = Grant.objects.select_related("role", "collection").filter(pk=grant_id, collection_id__in=near, system=False).first()
    if row is None:
        raise NotFound("there is no such grant on this repository or its namespace; one higher up the tree is taken away there")
    _require(actor, repository, row.collection, "Repository Access")
    foreign = sorted(set(row.role.operations) - _OURS)
    if foreign and not actor.is_admin:
        raise Denied(
            f"the role {row.role.name} is about more than repositories ({', '.join(foreign)}); an administrator takes it away"
        )
    delete_grant(actor, row)


def _require(actor: Actor, repository: Repository, target: Collection, operation: str) -> None:
    if not _holds(actor, repository, target, operation):
        what = "this repository" if target.pk == repository.collection_id else f"the namespace {repository.namespace.name}"
        raise Denied(f"you lack {operation} on {what}", operation=operation, collection=target.path)


def _holds(actor: Actor, repository: Repository, target: Collection, operation: str) -> bool:
    if target.pk == repository.collection_id and repository.collection_id != repository.namespace.collection_id:
        return rbac.explain(actor, operation, repository).allowed
    owner = actor.kind == "user" and actor.in_scope(operation) and access.owns_namespace(actor, repository.namespace.name)
    return owner or rbac.explain(actor, operation, target).allowed


def _check_role(actor: Actor, repository: Repository, target: Collection, role: Role) -> None:
    """Raises Denied for a role that reaches beyond repositories, or that holds more than the giver does."""
    foreign = sorted(set(role.operations) - _OURS)
    if foreign and not actor.is_admin:
        raise Denied(
            f"the role {role.name} is about more than repositories ({', '.join(foreign)}); an administrator gives it with a grant"
        )
    if actor.is_admin and actor.scopes is None:
        return
    for kind, verbs in role.operations.items():
        for verb in verbs:
            if not _holds(actor, repository, target, f"{kind} {verb}"):
                raise Denied(
                    f"you lack {kind} {verb} there yourself, so you cannot give the role {role.name}", operation=f"{kind} {verb}"
                )
