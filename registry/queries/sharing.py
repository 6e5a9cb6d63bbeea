"""Who may do what in a repository, and why: everything that gives a right there, for those who look after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controlplane.api.access import catalogue
from controlplane.rbac.builtin import REPOSITORY_READ, REPOSITORY_WRITE
from controlplane.rbac.models import Grant
from controlplane.users.models import Membership, Organisation, Team, User
from registry.models import Namespace, Repository, Robot
from registry.queries import robots

# what people say -> the built-in role (control-plane.md 2.2)
LEVELS = {"read": "Registry Read", "read-write": "Registry Read-Write", "admin": "Registry Admin"}


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that gives somebody a right in the repository.

    `who` is "user alice", "team acme/web", "org acme", "robot acme+ci" or "everybody"; `grant_id` is "" for what no grant gives;
    `removable`: the grant stands on the repository itself or on its namespace, not higher up the tree.
    """

    kind: str
    who: str
    level: str
    verbs: tuple[str, ...]
    why: str
    path: str = ""
    role: str = ""
    grant_id: str = ""
    removable: bool = False


def rights(repository: Repository) -> list[Right]:
    """Administrators, owners and the public first, then grants from the repository up to the root, then robots."""
    return [*_by_relation(repository), *_by_grants(repository), *_of_robots(repository)]


def level_of(verbs: Iterable[str]) -> str:
    """The nearest of LEVELS that `verbs` fill, "view" for less, "some" for what is none of them."""
    held = set(verbs)
    if held >= set(catalogue()["Repository"].operations):
        return "admin"
    if held >= REPOSITORY_WRITE:
        return "read-write"
    if held >= REPOSITORY_READ:
        return "read"
    return "view" if held == {"View"} else "some"


def _by_relation(repository: Repository) -> list[Right]:
    every = tuple(catalogue()["Repository"].operations)
    found = [Right("admins", "administrators", "admin", every, "Administrators may do everything.")]
    namespace = repository.namespace
    if namespace.kind == Namespace.Kind.USER:
        name = User.objects.filter(pk=namespace.owner_id).values_list("username", flat=True).first()
        if name:
            found.append(Right("user", name, "admin", every, "The namespace is theirs."))
    elif namespace.kind == Namespace.Kind.ORGANISATION:
        owners = Membership.objects.filter(organisation_id=namespace.owner_id, is_owner=True)
        for name in owners.order_by("user__username").values_list("user__username", flat=True):
            found.append(Right("user", name, "admin", every, f"Owner of the organisation {namespace.name}."))
    if repository.is_public:
        found.append(Right("everybody", "everybody", "read", ("View", "Pull"), "The repository is public."))
    return found


def _by_grants(repository: Repository) -> list[Right]:
    path = repository.collection.path
    above = [path[: end + 1] for end, character in enumerate(path) if character == "/"]
    rows = list(Grant.objects.filter(collection__path__in=above).select_related("role", "collection"))
    rows = [row for row in rows if row.role.operations.get("Repository")]
    names = names_of({row.subject_id for row in rows})
    near = {repository.collection_id, repository.namespace.collection_id}
    found = []
    for row in sorted(rows, key=lambda row: (-len(row.collection.path), row.subject_kind, names.get(row.subject_id, ""))):
        verbs = tuple(row.role.operations["Repository"])
        where = "this repository" if row.collection_id == repository.collection_id else row.collection.path
        found.append(
            Right(
                row.subject_kind,
                names.get(row.subject_id, row.subject_id),
                level_of(verbs),
                verbs,
                f"The role {row.role.name} on {where}.",
                row.collection.path,
                row.role.name,
                row.pk,
                row.collection_id in near and not row.system,
            )
        )
    return found


def names_of(ids: Collection[str]) -> dict[str, str]:
    """Ids of users, teams and organisations -> names; of teams "organisation/team"."""
    names: dict[str, str] = dict(User.objects.filter(pk__in=ids).values_list("pk", "username"))
    names.update(Organisation.objects.filter(pk__in=ids).values_list("pk", "name"))
    teams = Team.objects.filter(pk__in=ids).values_list("pk", "organisation__name", "name")
    names.update({pk: f"{organisation}/{name}" for pk, organisation, name in teams})
    return names


def _of_robots(repository: Repository) -> list[Right]:
    rows = Robot.objects.filter(disabled=False).filter(namespace__in=[repository.namespace_id]) | Robot.objects.filter(
        disabled=False, namespace=None
    )
    found = []
    for row in rows.order_by("full_name"):
        actions = tuple(action for action in robots.ACTIONS if robots.may(row, action, repository.full_name))
        if actions:
            found.append(
                Right(
                    "robot", row.full_name, ", ".join(actions), actions, f"The robot's own rights: {robots.text_of(row.rights)}."
                )
            )
    return found
