"""Proxied namespaces: made, changed, removed, and what nobody pulls forgotten. What pulls bring: registry.actions.bringing."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, InvalidInput, PreconditionFailed
from agent.protocol.oci import check_name
from controlplane import events, rbac
from controlplane.api.actor import Actor
from registry.actions import manifests
from registry.actions.bringing import STAYS, actor_of
from registry.actions.mirrors import check_elsewhere
from registry.actions.repositories import create_namespace
from registry.models import Manifest, ManifestChild, Proxied, Proxy, Repository, Tag
from registry.sealed import seal

OPERATION = "Registry Proxy"
EDITABLE = frozenset({"username", "secret", "tls_verify", "tls_ca", "fresh", "keep_days", "enabled"})


class ProxyChanged(PreconditionFailed):
    code = "proxy_changed"


def create_proxy(
    actor: Actor, *, namespace: str, url: str, prefix: str = "", visibility: str = "private", **fields: Any
) -> Proxy:
    """Make `namespace`, new or empty, show what is below `prefix` there. For administrators.

    Raises Denied, Conflict, InvalidInput, EgressRefused.
    """
    rbac.require(actor, OPERATION)
    if prefix:
        check_name(prefix)
    if visibility not in Repository.Visibility.values:
        raise InvalidInput("the visibility is public or private")
    space = create_namespace(actor, namespace)
    row = Proxy(namespace=space, url=url, prefix=prefix, visibility=visibility, created_by=actor.name)
    _assign(row, fields)
    with transaction.atomic():
        if Repository.objects.filter(namespace=space).exists() or Proxy.objects.filter(namespace=space).exists():
            raise Conflict(f"{namespace} holds repositories or is a proxy already; take a new namespace")
        row.save(force_insert=True)
        _record("proxy.created", actor, row)
    return row


def update_proxy(actor: Actor, proxy: Proxy, version: int | None, **fields: Any) -> Proxy:
    """Change some of EDITABLE; another place is another proxy. Raises ProxyChanged, InvalidInput."""
    rbac.require(actor, OPERATION)
    _assign(proxy, fields)
    with transaction.atomic():
        row = Proxy.objects.select_for_update(of=("self",)).select_related("namespace__collection").get(pk=proxy.pk)
        if version is not None and row.version != version:
            raise ProxyChanged(f"the proxy was changed by somebody else (version {row.version}); read it again")
        for name in fields:
            column = "sealed_secret" if name == "secret" else name
            setattr(row, column, getattr(proxy, column))
        row.version += 1
        row.save()
        _record("proxy.updated", actor, row)
    return row


def delete_proxy(actor: Actor, proxy: Proxy) -> None:
    """What was kept stays as ordinary repositories, which can be pushed to from now on."""
    rbac.require(actor, OPERATION)
    with transaction.atomic():
        _record("proxy.deleted", actor, proxy)
        Repository.objects.filter(namespace=proxy.namespace).update(mirrored_from="")
        Proxied.objects.filter(repository__namespace=proxy.namespace).delete()
        proxy.delete()


def _assign(row: Proxy, fields: dict[str, Any]) -> None:
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a proxy has no changeable field {', '.join(sorted(unknown))}")
    for name, value in fields.items():
        if name == "secret":
            row.sealed_secret = seal(value, f"proxy:{row.pk}")
        else:
            setattr(row, name, value)
    check_elsewhere(row)


def _record(kind: str, actor: Actor, row: Proxy) -> None:
    events.record(
        kind,
        actor=actor,
        target=f"proxy/{row.pk}",
        collection_path=row.namespace.collection.path,
        data={"namespace": row.namespace.name, "host": row.host, "prefix": row.prefix, "enabled": row.enabled},
    )


def expire() -> int:
    """Forget what nobody pulled for as long as its proxy keeps it; returns how many manifests went. Blobs are the collector's."""
    removed = 0
    for proxy in Proxy.objects.filter(keep_days__gt=0).select_related("namespace"):
        cutoff = timezone.now() - timedelta(days=proxy.keep_days)
        for repository in Repository.objects.filter(namespace=proxy.namespace, mirrored_from__gt=""):
            removed += _expire(proxy, repository, cutoff)
    return removed


def _expire(proxy: Proxy, repository: Repository, cutoff: Any) -> int:
    recent = set(Proxied.objects.filter(repository=repository, pulled_at__gt=cutoff).values_list("name", flat=True))
    for tag in Tag.objects.filter(repository=repository, pushed_at__lt=cutoff).exclude(name__in=recent):
        with suppress(*STAYS):
            manifests.delete_tag(actor_of(proxy), repository.full_name, tag.name)
    Proxied.objects.filter(repository=repository, pulled_at__lte=cutoff).delete()
    unused = Manifest.objects.filter(repository=repository, tags__isnull=True, pushed_at__lt=cutoff).exclude(digest__in=recent)
    children = ManifestChild.objects.filter(manifest__repository=repository).values("digest")
    count = 0
    for digest in list(unused.exclude(digest__in=children).values_list("digest", flat=True)):
        with suppress(*STAYS):
            manifests.delete_manifest(actor_of(proxy), repository.full_name, digest)
            count += 1
    return count
