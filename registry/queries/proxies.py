"""Which namespaces show another registry's content, and who may pull what is not here yet."""

from __future__ import annotations

from controlplane import rbac
from controlplane.api.actor import Actor
from registry.models import Proxy, Repository


def covering(full_name: str) -> Proxy | None:
    """The proxy whose namespace `full_name` is in."""
    namespace, slash, _ = full_name.partition("/")
    if not slash:
        return None
    return Proxy.objects.select_related("namespace__collection").filter(namespace__name=namespace, enabled=True).first()


def may_pull(actor: Actor, full_name: str) -> bool:
    """May `actor` pull a repository that the first pull will make? As they could pull it afterwards."""
    proxy = covering(full_name)
    if proxy is None:
        return False
    if proxy.visibility == Repository.Visibility.PUBLIC:
        return True
    return rbac.explain(actor, "Repository Pull", proxy.namespace.collection).allowed
