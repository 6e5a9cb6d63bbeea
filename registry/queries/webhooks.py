"""Which webhooks somebody may see and change, and which ones an event concerns."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from agent.protocol.errors import Denied, NotFound
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.rbac.models import Collection
from controlplane.users.models import Membership
from registry.models import Namespace, Repository, Webhook

OPERATION = "Repository Policy"


def visible_webhooks(actor: Actor) -> QuerySet[Webhook]:
    """Of the repositories and namespaces whose policies `actor` may set; administrators see all."""
    rows = Webhook.objects.select_related("repository__collection", "repository__namespace", "namespace__collection")
    repositories = rbac.visible(actor, Repository.objects.all(), OPERATION)
    namespaces = managed_namespaces(actor)
    wide = Q(repository__isnull=True, namespace__isnull=True)
    condition = Q(repository__in=repositories.values("pk")) | Q(namespace__in=namespaces.values("pk"))
    return rows.filter(condition | wide if actor.is_admin and actor.in_scope(OPERATION) else condition)


def managed_namespaces(actor: Actor) -> QuerySet[Namespace]:
    """Those that are the actor's, and those on whose collection a grant lets them set policies."""
    granted = rbac.visible(actor, Collection.objects.all(), OPERATION)
    condition = Q(collection__in=granted.values("pk"))
    if actor.kind == "user" and actor.in_scope(OPERATION):
        organisations = Membership.objects.filter(user_id=actor.id, is_owner=True).values("organisation_id")
        condition |= Q(kind=Namespace.Kind.USER, owner_id=actor.id)
        condition |= Q(kind=Namespace.Kind.ORGANISATION, owner_id__in=organisations)
    return Namespace.objects.filter(condition)


def may_manage(actor: Actor, repository: Repository | None, namespace: Namespace | None) -> None:
    """Returns when `actor` may set policies there; with neither, everywhere. Raises NotFound, Denied."""
    if repository is not None:
        rbac.require(actor, OPERATION, repository)
    elif namespace is None:
        if not actor.is_admin:
            raise Denied("only administrators subscribe to everything; name a repository or a namespace", operation=OPERATION)
        rbac.require(actor, OPERATION)
    elif not managed_namespaces(actor).filter(pk=namespace.pk).exists():
        raise NotFound(f"there is no namespace {namespace.name}, or you may not set its policies")


def concerned(repository: str, kind: str) -> list[Webhook]:
    """The active webhooks that want `kind` of the repository with this full name ("" = of none)."""
    wide = Q(repository__isnull=True, namespace__isnull=True)
    if repository:
        wide |= Q(repository__full_name=repository) | Q(namespace__name=repository.partition("/")[0])
    rows = Webhook.objects.filter(wide, active=True).select_related("repository", "namespace").order_by("pk")
    return [row for row in rows if kind in row.types]
