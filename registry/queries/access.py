"""What an actor may do in a repository, in the registry's three words: pull, push, delete."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q, QuerySet

from agent.protocol.errors import Denied, NotFound
from agent.protocol.oci import NameInvalid, check_name
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.rbac.models import Collection
from controlplane.users.models import Membership, Organisation, User
from registry.models import Namespace, Quota, Repository
from registry.queries import proxies, robots
from registry.seed import COLLECTION

ACTIONS = {"pull": "Repository Pull", "push": "Repository Push", "delete": "Repository Tag Delete"}


def allowed_actions(actor: Actor, full_name: str, asked: Iterable[str] = ACTIONS) -> frozenset[str]:
    """Those of `asked` that `actor` may do in `full_name`; before it exists, what its creator could do."""
    wanted = set(ACTIONS) if "*" in asked else set(asked) & set(ACTIONS)
    repository = Repository.objects.select_related("collection", "namespace").filter(full_name=full_name).first()
    if repository is None:
        may = may_create(actor, full_name)
        granted = wanted if may else wanted & {"pull"} if proxies.may_pull(actor, full_name) else set()
        return frozenset(action for action in granted if actor.in_scope(ACTIONS[action]))
    return frozenset(action for action in wanted if rbac.explain(actor, ACTIONS[action], repository).allowed)


def may_create(actor: Actor, full_name: str) -> bool:
    """May `actor` make the repository `full_name`: in their own namespace, by a grant on the namespace, or as administrator?"""
    try:
        check_name(full_name)
    except NameInvalid:
        return False
    if actor.kind == "robot":
        return robots.may_create(actor.id, full_name)
    name = full_name.partition("/")[0]
    # Where the namespace has no folder yet, a grant on the folder of all namespaces counts.
    above = Collection.objects.filter(path__in=[COLLECTION, f"{COLLECTION}{name}/"]).order_by("-path").first()
    try:
        rbac.require(actor, "Repository Create", above)
        return True
    except (Denied, NotFound):
        pass  # no grant; the namespace may be theirs all the same
    return actor.kind == "user" and actor.in_scope("Repository Create") and owns_namespace(actor, name)


def owns_namespace(actor: Actor, name: str) -> bool:
    """Is `name` the user's own, or that of an organisation they own? A namespace that exists decides by its recorded owner."""
    namespace = Namespace.objects.filter(name=name).first()
    if namespace is None:
        kind, owner_id = owner_of(name)
    else:
        kind, owner_id = namespace.kind, namespace.owner_id
    if kind == Namespace.Kind.USER:
        return owner_id == actor.id
    if kind == Namespace.Kind.ORGANISATION:
        return Membership.objects.filter(user_id=actor.id, organisation_id=owner_id, is_owner=True).exists()
    return False


def owned_namespaces(actor: Actor, rows: QuerySet[Namespace]) -> QuerySet[Namespace]:
    """Those of `rows` that are the actor's: all for administrators."""
    if actor.is_admin:
        return rows
    if actor.kind != "user":
        return rows.none()
    owned = Membership.objects.filter(user_id=actor.id, is_owner=True).values("organisation_id")
    mine = Q(kind=Namespace.Kind.USER, owner_id=actor.id) | Q(kind=Namespace.Kind.ORGANISATION, owner_id__in=owned)
    return rows.filter(mine)


def quota_of(actor: Actor, namespace: Namespace) -> Quota | None:
    """The namespace's quota, for those whose namespace it is and for administrators."""
    if not owned_namespaces(actor, Namespace.objects.filter(pk=namespace.pk)).exists():
        return None
    return Quota.objects.select_related("namespace").filter(namespace=namespace).first()


def owner_of(name: str) -> tuple[str, str]:
    """(kind, id) of whose namespace `name` is by its name; ("plain", "") when it is nobody's."""
    user = User.objects.filter(username=name).values_list("id", flat=True).first()
    if user is not None:
        return Namespace.Kind.USER, user
    organisation = Organisation.objects.filter(name=name, everyone=False).values_list("id", flat=True).first()
    if organisation is not None:
        return Namespace.Kind.ORGANISATION, organisation
    return Namespace.Kind.PLAIN, ""
