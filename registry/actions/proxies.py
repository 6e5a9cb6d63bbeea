"""Proxied namespaces: what is asked for is fetched from the other registry, kept, and served while that one is away.

An index is kept without its children, which come when they are asked for; a manifest comes with its blobs, each fetched once
however many ask for it at the same time (registry.actions.fetching). The other registry's word counts while it answers: a tag
that it has no more goes here too. While it is away, busy or refuses, what is here is served as it is.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, InvalidInput, PreconditionFailed
from agent.protocol.oci import check_name, parse_manifest
from controlplane import events, rbac
from controlplane.api.actor import SYSTEM, Actor
from registry.actions import fetching, manifests
from registry.actions.copying import needs
from registry.actions.mirrors import check_elsewhere, remote_of
from registry.actions.repositories import RepositoryExists, create_namespace, create_repository
from registry.details import platforms_of
from registry.errors import ImageInUse, ManifestUnknown, TagImmutable
from registry.models import Manifest, ManifestChild, Proxied, Proxy, Repository, Tag
from registry.queries import content
from registry.remote.client import RegistryClient, RemoteManifest
from registry.remote.errors import RemoteAway, RemoteBusy, RemoteRefused
from registry.sealed import seal

OPERATION = "Registry Proxy"
HEAD_SECONDS = 5.0  # a client waits this long to hear whether a tag has moved
AWAY_SECONDS = 15.0  # one that did not answer is not asked again for this long
NOTE_SECONDS = 3600.0  # a pull is noted at most this often
EDITABLE = frozenset({"username", "secret", "tls_verify", "tls_ca", "fresh", "keep_days", "enabled"})

_STAYS = (ManifestUnknown, ImageInUse, TagImmutable)  # another request was faster, or something here needs it

_away: dict[str, float] = {}  # proxy -> when it may be asked again, by this process's clock
_lock = threading.Lock()


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


def bring(proxy: Proxy, full_name: str, target: str) -> None:
    """See to it that the manifest `target` (tag or digest) is here and as fresh as it must be.

    Raises RemoteAway, RemoteBusy, RemoteRefused, RemoteBroken when it is not here and cannot be had.
    """
    here = content.manifest(full_name, target)
    if here is not None and (":" in target or _is_fresh(proxy, full_name, target)):
        _note(full_name, target, checked=False)
        return
    if here is not None and _is_away(proxy):
        return
    try:
        if here is not None:
            _renew(proxy, full_name, target, here.digest)
        else:
            _fetch(proxy, full_name, target)
    except (RemoteAway, RemoteBusy, RemoteRefused) as error:
        if isinstance(error, RemoteAway | RemoteBusy):
            with _lock:
                _away[proxy.pk] = time.monotonic() + AWAY_SECONDS
        if here is None:
            raise


def _is_fresh(proxy: Proxy, full_name: str, tag: str) -> bool:
    since = timezone.now() - timedelta(seconds=proxy.fresh)
    return Proxied.objects.filter(repository__full_name=full_name, name=tag, checked_at__gt=since).exists()


def _is_away(proxy: Proxy) -> bool:
    with _lock:
        return _away.get(proxy.pk, 0.0) > time.monotonic()


def _renew(proxy: Proxy, full_name: str, tag: str, known: str) -> None:
    """Has the tag moved? Within HEAD_SECONDS, else what is here is served."""
    with RegistryClient(remote_of(proxy), attempts=1, deadline=HEAD_SECONDS) as client:
        found = client.head_manifest(proxy.remote_name(full_name), tag)
    if found is None:
        with suppress(*_STAYS):
            manifests.delete_tag(_actor(proxy), full_name, tag)
    elif found.digest != known:
        _fetch(proxy, full_name, tag)
    else:
        _note(full_name, tag, checked=True)


def _fetch(proxy: Proxy, full_name: str, target: str) -> None:
    name = proxy.remote_name(full_name)
    with RegistryClient(remote_of(proxy), attempts=2, wait=_briefly) as client:
        found = client.get_manifest(name, target)
        if found is None:
            return  # the handler says that there is none
        repository = _repository(proxy, full_name)
        _keep(proxy, repository, client, name, found, target)
    _note(full_name, target, checked=True)


def _briefly(seconds: float) -> None:
    """Somebody waits for the answer."""
    time.sleep(min(seconds, 0.5))


def _keep(proxy: Proxy, repository: Repository, client: RegistryClient, name: str, found: RemoteManifest, target: str) -> None:
    document = parse_manifest(found.raw, found.media_type)
    actor = _actor(proxy)
    for blob in needs(document):
        source = partial(client.blob, name, str(blob.digest))
        fetching.fetch(repository, blob.digest, blob.size, source, actor.name)
    tags = [] if ":" in target else [target]
    manifests.put_manifest(actor, repository.full_name, document, found.digest, tags, platforms_of(document))


def _repository(proxy: Proxy, full_name: str) -> Repository:
    row = Repository.objects.filter(full_name=full_name).first()
    if row is None:
        try:
            row = create_repository(SYSTEM, full_name, visibility=proxy.visibility, sparse_indexes=True)
        except RepositoryExists:
            row = Repository.objects.get(full_name=full_name)
    if not row.mirrored_from:
        row.mirrored_from = f"{proxy.host}/{proxy.remote_name(full_name)}"
        Repository.objects.filter(pk=row.pk).update(mirrored_from=row.mirrored_from)
    return row


def _actor(proxy: Proxy) -> Actor:
    return Actor("system", f"proxy/{proxy.pk}", f"proxy of {proxy.host}", is_admin=True)


def _note(full_name: str, name: str, *, checked: bool) -> None:
    """When it was asked about, and pulled: what is served from here all day is one write an hour."""
    now = timezone.now()
    rows = Proxied.objects.filter(repository__full_name=full_name, name=name)
    if not checked and rows.filter(pulled_at__gt=now - timedelta(seconds=NOTE_SECONDS)).exists():
        return
    if rows.update(pulled_at=now, **({"checked_at": now} if checked else {})):
        return
    repository = Repository.objects.filter(full_name=full_name).first()
    if repository is not None:
        Proxied.objects.update_or_create(repository=repository, name=name, defaults={"checked_at": now, "pulled_at": now})


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
        with suppress(*_STAYS):
            manifests.delete_tag(_actor(proxy), repository.full_name, tag.name)
    Proxied.objects.filter(repository=repository, pulled_at__lte=cutoff).delete()
    unused = Manifest.objects.filter(repository=repository, tags__isnull=True, pushed_at__lt=cutoff).exclude(digest__in=recent)
    children = ManifestChild.objects.filter(manifest__repository=repository).values("digest")
    count = 0
    for digest in list(unused.exclude(digest__in=children).values_list("digest", flat=True)):
        with suppress(*_STAYS):
            manifests.delete_manifest(_actor(proxy), repository.full_name, digest)
            count += 1
    return count
