"""What is asked of a proxied namespace is fetched from the other registry, kept, and served while that one is away.

An index is kept without its children, which come when they are asked for. A manifest is answered at once and kept when all its
blobs are here; each is fetched once, however many ask for it at the same time (registry.actions.arriving, fetching). The other
registry's word counts while it answers: a tag that it has no more goes here too. While it is away, busy or refuses, what is here
is served as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from agent.protocol.errors import WharfError
from agent.protocol.oci import Digest, DigestInvalid, parse_manifest
from agent.protocol.oci import Manifest as Document
from controlplane.api.actor import SYSTEM, Actor
from registry.actions import arriving, fetching, manifests
from registry.actions.arriving import ArrivingBlob, ArrivingImage
from registry.actions.copying import needs
from registry.actions.mirrors import remote_of
from registry.actions.repositories import RepositoryExists, create_repository
from registry.details import platforms_of
from registry.errors import ImageInUse, ManifestUnknown, TagImmutable
from registry.models import Proxied, Proxy, Repository
from registry.queries import content
from registry.remote.client import RegistryClient, RemoteManifest
from registry.remote.errors import RemoteAway, RemoteBroken, RemoteBusy, RemoteRefused

HEAD_SECONDS = 5.0  # a client waits this long to hear whether a tag has moved
AWAY_SECONDS = 15.0  # one that did not answer is not asked again for this long
NOTE_SECONDS = 3600.0  # a pull is noted at most this often
STAYS = (ManifestUnknown, ImageInUse, TagImmutable)  # another request was faster, or something here needs it

_away: dict[str, float] = {}  # proxy -> when it may be asked again, by this process's clock
_lock = threading.Lock()


def bring(proxy: Proxy, full_name: str, target: str) -> RemoteManifest | None:
    """See to it that the manifest `target` (tag or digest) is as fresh as it must be: here, or on its way and returned.

    Raises RemoteAway, RemoteBusy, RemoteRefused, RemoteBroken when it is not here and cannot be had.
    """
    if ":" in target:
        return _bring_digest(proxy, full_name, target)
    shown, asked_at = _coming(full_name, target)
    if shown is not None and _within(proxy, asked_at):
        return shown
    here = content.manifest(full_name, target)
    if shown is None and here is not None and _is_fresh(proxy, full_name, target):
        _note(full_name, target)
        return None
    known = str(shown.digest) if shown else here.digest if here else ""
    if known and _is_away(proxy):
        return shown
    try:
        if known:
            return _renew(proxy, full_name, target, known, shown)
        return _fetch(proxy, full_name, target)
    except (RemoteAway, RemoteBusy, RemoteRefused) as error:
        _note_away(proxy, error)
        if not known:
            raise
        return shown


def _bring_digest(proxy: Proxy, full_name: str, digest: str) -> RemoteManifest | None:
    if (coming := arriving.image(full_name, digest)) is not None:
        return coming.found
    if content.manifest(full_name, digest) is not None:
        _note(full_name, digest)
        return None
    try:
        return _fetch(proxy, full_name, digest)
    except (RemoteAway, RemoteBusy) as error:
        _note_away(proxy, error)
        raise


def _coming(full_name: str, tag: str) -> tuple[RemoteManifest | None, datetime | None]:
    """What is on its way under a tag, and when it was asked for; not when something else is here since."""
    coming = arriving.image(full_name, tag)
    asked_at = coming.tags.get(tag) if coming else None
    if coming is None or asked_at is None:
        return None, None
    if _asked_since(full_name, tag, asked_at):
        arriving.take_tag(full_name, tag)
        return None, None
    return coming.found, asked_at


def _note_away(proxy: Proxy, error: WharfError) -> None:
    if isinstance(error, RemoteAway | RemoteBusy):
        with _lock:
            _away[proxy.pk] = time.monotonic() + AWAY_SECONDS


def _within(proxy: Proxy, asked_at: datetime | None) -> bool:
    return asked_at is not None and asked_at + timedelta(seconds=proxy.fresh) > timezone.now()


def _asked_since(full_name: str, tag: str, asked_at: datetime) -> bool:
    """And kept what the other registry answered then, maybe by another process."""
    return Proxied.objects.filter(repository__full_name=full_name, name=tag, checked_at__gt=asked_at).exists()


def _is_fresh(proxy: Proxy, full_name: str, tag: str) -> bool:
    since = timezone.now() - timedelta(seconds=proxy.fresh)
    return Proxied.objects.filter(repository__full_name=full_name, name=tag, checked_at__gt=since).exists()


def _is_away(proxy: Proxy) -> bool:
    with _lock:
        return _away.get(proxy.pk, 0.0) > time.monotonic()


def _renew(proxy: Proxy, full_name: str, tag: str, known: str, shown: RemoteManifest | None) -> RemoteManifest | None:
    """Has the tag moved? Within HEAD_SECONDS, else what is here or comes is served."""
    asked_at = timezone.now()
    with _there(proxy, attempts=1, deadline=HEAD_SECONDS) as client:
        found = client.head_manifest(proxy.remote_name(full_name), tag)
    if found is None:
        arriving.take_tag(full_name, tag)
        with suppress(*STAYS):
            manifests.delete_tag(actor_of(proxy), full_name, tag)
        return None
    if found.digest != known:
        return _fetch(proxy, full_name, tag)
    if shown is None:
        _note(full_name, tag, asked_at)
    else:
        arriving.note_asked(full_name, tag)
    return shown


def _fetch(proxy: Proxy, full_name: str, target: str) -> RemoteManifest | None:
    """The manifest, when blobs of it are missing here; else it is kept at once, if there is one."""
    asked_at = timezone.now()
    with _there(proxy, attempts=2, wait=_briefly) as client:
        found = client.get_manifest(proxy.remote_name(full_name), target)
    if found is None:
        return None  # the handler says that there is none
    document = parse_manifest(found.raw, found.media_type)
    repository = _repository(proxy, full_name)
    tags = {} if ":" in target else {target: asked_at}
    sizes = {str(item.digest): item.size for item in needs(document)}
    if all(content.blob(full_name, digest) is not None for digest in sizes):
        arriving.take_tag(full_name, target)
        _keep(proxy, repository, document, found, tags)
        return None

    def complete(coming: ArrivingImage) -> None:
        for item in needs(document):
            blob = _expect(proxy, repository, item.digest, item.size)
            connection.close()
            blob.done.result()
        _keep(proxy, repository, document, found, arriving.tags_of(coming))

    arriving.expect_image(full_name, ArrivingImage(found, sizes, tags), complete)
    return found


def bring_blob(proxy: Proxy, full_name: str, digest: Digest) -> ArrivingBlob | None:
    """A blob that is not here, on its way; None when the other registry has none or it is here by now.

    Raises RemoteAway, RemoteBusy, RemoteRefused, RemoteBroken, Throttled.
    """
    if (coming := arriving.blob(full_name, digest)) is not None:
        return coming
    if content.blob(full_name, str(digest)) is not None:
        return None
    size = blob_size(proxy, full_name, digest)
    return None if size is None else _expect(proxy, _repository(proxy, full_name), digest, size)


def _remote_size(proxy: Proxy, full_name: str, digest: Digest) -> int | None:
    """Of a blob there; None when there is none. Raises RemoteAway, RemoteBusy, RemoteRefused."""
    try:
        with _there(proxy, attempts=1, deadline=HEAD_SECONDS) as client:
            size = client.head_blob(proxy.remote_name(full_name), str(digest))
            if size == 0 and digest != Digest.of(b"", digest.algorithm):
                raise RemoteBroken(f"{proxy.host} does not say how large {digest} is")
            return size
    except (RemoteAway, RemoteBusy) as error:
        _note_away(proxy, error)
        raise


def blob_size(proxy: Proxy, full_name: str, digest: Digest) -> int | None:
    """Of a blob that is not here; None when the other registry has none. Raises RemoteAway, RemoteBusy, RemoteRefused."""
    size = arriving.size_of(full_name, digest)
    return _remote_size(proxy, full_name, digest) if size is None else size


def referrers(proxy: Proxy, full_name: str, digest: Digest) -> list[dict[str, Any]]:
    """Descriptors of what points at a manifest there; none while it does not answer. Raises RemoteBroken."""
    if _is_away(proxy):
        return []
    try:
        with _there(proxy, attempts=1, deadline=HEAD_SECONDS) as client:
            found = client.referrers(proxy.remote_name(full_name), str(digest))
    except (RemoteAway, RemoteBusy, RemoteRefused) as error:
        _note_away(proxy, error)
        return []
    return [clean for item in found if (clean := _descriptor(item)) is not None]


def _descriptor(item: dict[str, Any]) -> dict[str, Any] | None:
    """What our own list shows of a referrer; None when it is none."""
    kind, size, artifact, notes = (item.get(key) for key in ("mediaType", "size", "artifactType", "annotations"))
    try:
        digest = str(Digest.parse(str(item["digest"])))
    except DigestInvalid:
        return None
    if not isinstance(kind, str) or not isinstance(size, int):
        return None
    result: dict[str, Any] = {"mediaType": kind, "digest": digest, "size": size}
    if isinstance(artifact, str) and artifact:
        result["artifactType"] = artifact
    if isinstance(notes, dict) and notes and all(isinstance(value, str) for value in notes.values()):
        result["annotations"] = notes
    return result


def _expect(proxy: Proxy, repository: Repository, digest: Digest, size: int) -> ArrivingBlob:
    def fetch() -> None:
        with _there(proxy, attempts=2, wait=_briefly) as client:

            def source(start: int) -> Iterator[bytes]:
                connection.close()
                return client.blob(proxy.remote_name(repository.full_name), str(digest), start)

            fetching.fetch(
                repository, digest, size, source, actor_of(proxy).name, wait=_asleep, told=lambda offset: connection.close()
            )

    session = fetching.session_of(repository.pk, digest)
    return arriving.expect_blob(repository.full_name, digest, size, session, fetch)


@contextmanager
def _there(proxy: Proxy, **options: Any) -> Iterator[RegistryClient]:
    """The other registry may be long in answering: meanwhile nobody here holds one of the process's few database connections."""
    remote = remote_of(proxy)
    connection.close()
    with RegistryClient(remote, **options) as client:
        yield client


def _asleep(seconds: float) -> None:
    connection.close()
    time.sleep(seconds)


def _briefly(seconds: float) -> None:
    """Somebody waits for the answer."""
    time.sleep(min(seconds, 0.5))


def _keep(proxy: Proxy, repository: Repository, document: Document, found: RemoteManifest, asked: dict[str, datetime]) -> None:
    """With those of the tags that the other registry has not been asked for again since, be it by another process."""
    name = repository.full_name
    with transaction.atomic():  # whoever sees the tag also sees when it was asked for
        tags = {tag: at for tag, at in asked.items() if not _asked_since(name, tag, at)}
        manifests.put_manifest(actor_of(proxy), name, document, found.digest, list(tags), platforms_of(document))
        for target, at in (tags or {str(found.digest): timezone.now()}).items():
            _note(name, target, at)


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


def actor_of(proxy: Proxy) -> Actor:
    return Actor("system", f"proxy/{proxy.pk}", f"proxy of {proxy.host}", is_admin=True)


def _note(full_name: str, name: str, checked_at: datetime | None = None) -> None:
    """When it was asked about there, and pulled here: what is served from here all day is one write an hour."""
    now = timezone.now()
    rows = Proxied.objects.filter(repository__full_name=full_name, name=name)
    if checked_at is None and rows.filter(pulled_at__gt=now - timedelta(seconds=NOTE_SECONDS)).exists():
        return
    if rows.update(pulled_at=now, **({"checked_at": checked_at} if checked_at else {})):
        return
    repository = Repository.objects.filter(full_name=full_name).first()
    if repository is not None:
        times = {"checked_at": checked_at or now, "pulled_at": now}
        Proxied.objects.update_or_create(repository=repository, name=name, defaults=times)
