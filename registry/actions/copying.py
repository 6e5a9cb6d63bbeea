"""One image with all that belongs to it, from here to another registry or the other way.

What belongs to a manifest: config and layers, the children of an index, and whatever names it as its subject (signatures, SBOMs,
attestations), each with its own. A registry without the referrers API gets and gives them by the old tag schema's index.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agent.protocol.oci import MEDIA_OCI_INDEX, Descriptor, Digest, parse_manifest
from agent.protocol.oci import Manifest as Document
from controlplane.api.actor import Actor
from registry.actions import fetching, manifests
from registry.actions.blobs import mount
from registry.details import platforms_of
from registry.models import Manifest, ManifestChild, Mirror, Repository
from registry.queries import content
from registry.remote.client import RegistryClient, RemoteManifest, referrers_tag
from registry.remote.errors import RemoteBroken, RemoteUnknown
from registry.remote.pace import Wait
from registry.remote.upload import push_blob
from registry.storage import open_store

MAX_MANIFESTS = 5000  # of one image with all that belongs to it
Report = Callable[[str], None]


@dataclass
class Moved:
    """What went over, and what was there or could be mounted instead."""

    manifests: int = 0
    blobs: int = 0
    bytes: int = 0
    spared: int = 0

    def as_dict(self) -> dict[str, int]:
        return {"manifests": self.manifests, "blobs": self.blobs, "bytes": self.bytes, "spared": self.spared}


def needs(document: Document) -> Iterator[Descriptor]:
    """The blobs that a registry must hold for it; what is fetched from elsewhere (foreign layers) is not."""
    own = [document.config] if document.config else []
    seen = set()
    for item in (*own, *document.layers):
        if item.distributable and item.digest not in seen:
            seen.add(item.digest)
            yield item


def local_graph(repository: Repository, digest: str) -> list[str]:
    """Digests of everything here that belongs to `digest`, children before parents, referrers after their subject."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(current: str) -> None:
        if current in seen:
            return
        if len(seen) >= MAX_MANIFESTS:
            raise RemoteBroken(f"more than {MAX_MANIFESTS} manifests belong to {digest}; that is no image")
        seen.add(current)
        rows = Manifest.objects.filter(repository=repository)
        row = rows.filter(digest=current).values_list("id", flat=True).first()
        if row is None:
            return  # a sparse index names what is not here
        for child in ManifestChild.objects.filter(manifest_id=row).order_by("digest").values_list("digest", flat=True):
            visit(child)
        order.append(current)
        for referrer in rows.filter(subject=current).order_by("digest").values_list("digest", flat=True):
            visit(referrer)

    visit(digest)
    return order


@dataclass
class Push:
    """From `repository` to `name` at the client's registry. `sources`: repositories there that may hold the same blobs."""

    repository: Repository
    client: RegistryClient
    name: str
    report: Report
    moved: Moved = field(default_factory=Moved)
    _known: set[str] = field(default_factory=set)  # manifests that are there by now
    _blobs: set[str] = field(default_factory=set)
    _referrers: bool | None = None  # does the other registry keep them itself?

    def image(self, graph: list[str], digest: str, tag: str) -> None:
        """Everything in `graph`, then `tag` at `digest`: a tag never points at half an image."""
        for current in graph:
            if current != digest:
                self._manifest(current, current)
        self._manifest(digest, tag)
        # Referrers may precede their subject; their index of the old schema is written when all are there.
        if self._referrers is False:
            self._write_old_indexes(graph)

    def _manifest(self, digest: str, reference: str) -> None:
        row = Manifest.objects.filter(repository=self.repository, digest=digest).first()
        if row is None:
            raise RemoteBroken(f"{digest} was deleted here while it was mirrored; the next run goes on")
        document = parse_manifest(bytes(row.content), row.media_type)
        if digest not in self._known:
            self._known.add(digest)
            found = self.client.head_manifest(self.name, digest)
            if found is None or found.digest not in ("", digest):
                for blob in needs(document):
                    self._blob(blob)
            elif reference == digest and not (document.subject and self._referrers is None):
                self.moved.spared += 1
                return
        keeps = self.client.put_manifest(self.name, reference, document.raw, row.media_type)
        self.moved.manifests += 1
        if document.subject is not None:
            self._referrers = keeps

    def _blob(self, blob: Descriptor) -> None:
        digest = str(blob.digest)
        if digest in self._blobs:
            return
        opened = open_store().open(blob.digest)
        if opened is None:
            raise RemoteBroken(f"the bytes of {digest} are missing from the store; push the image again")
        try:
            how = push_blob(self.client, self.name, digest, blob.size, opened.read_at, self._source(digest))
        finally:
            opened.close()
        self._blobs.add(digest)
        if how == "sent":
            self.moved.blobs += 1
            self.moved.bytes += blob.size
            self.report(f"sent {digest[:19]} with {blob.size} bytes")
        else:
            self.moved.spared += 1

    def _source(self, digest: str) -> str:
        """A repository there that another mirror of ours has filled with this blob."""
        others = Mirror.objects.filter(
            direction=Mirror.Direction.PUSH,
            url=self.client.remote.url,
            username=self.client.remote.username,
            tags__isnull=False,
            repository__blob_links__blob__digest=digest,
        ).exclude(remote_name=self.name)
        return others.order_by("remote_name").values_list("remote_name", flat=True).first() or ""

    def _write_old_indexes(self, graph: list[str]) -> None:
        rows = Manifest.objects.filter(repository=self.repository, subject__in=graph).order_by("subject", "digest")
        subjects: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            entry: dict[str, Any] = {"mediaType": row.media_type, "digest": row.digest, "size": row.size}
            entry |= {"artifactType": row.artifact_type} if row.artifact_type else {}
            entry |= {"annotations": row.annotations} if row.annotations else {}
            subjects.setdefault(row.subject, []).append(entry)
        for subject, entries in subjects.items():
            # What others have put there stays: the index is shared by all who write to it.
            ours = {entry["digest"] for entry in entries}
            kept = [item for item in self.client.referrers(self.name, subject) if item["digest"] not in ours]
            index = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": [*kept, *entries]}
            self.client.put_manifest(self.name, referrers_tag(subject), json.dumps(index).encode(), MEDIA_OCI_INDEX)
            self.moved.manifests += 1


@dataclass
class Pull:
    """From `name` at the client's registry into `repository`.

    `actor` writes; `owner` is whose other repositories may lend a blob: who named the digest need not have had the bytes, so only
    what that person can pull anyway is linked without a transfer.
    """

    repository: Repository
    client: RegistryClient
    name: str
    actor: Actor
    owner: Actor | None
    report: Report
    wait: Wait = time.sleep
    moved: Moved = field(default_factory=Moved)
    _seen: set[str] = field(default_factory=set)

    def image(self, reference: str, tag: str) -> str:
        """Everything that belongs to `reference` there, then `tag` here; returns its digest. Raises RemoteUnknown."""
        top = self.client.get_manifest(self.name, reference)
        if top is None:
            raise RemoteUnknown(f"{self.client.remote.host} has no {self.name}:{reference}")
        document = parse_manifest(top.raw, top.media_type)
        self._below(document)
        self._put(document, top.digest, [tag] if tag else [])
        self._seen.add(str(top.digest))
        self.referrers(str(top.digest))
        return str(top.digest)

    def referrers(self, digest: str) -> None:
        """What names `digest` as its subject there, and is not here yet."""
        for entry in self.client.referrers(self.name, digest):
            self._fetch(str(entry["digest"]))

    def _fetch(self, digest: str) -> None:
        if digest in self._seen:
            return
        if len(self._seen) >= MAX_MANIFESTS:
            raise RemoteBroken(f"more than {MAX_MANIFESTS} manifests belong to one image; that is no image")
        self._seen.add(digest)
        here = content.manifest(self.repository.full_name, digest)
        if here is None:
            found = self.client.get_manifest(self.name, digest)
            if found is None:
                return  # an index that was pushed without all its children, or a referrer that is gone
            document = self._complete(found)
            self._put(document, found.digest, [])
        else:
            self.moved.spared += 1
            document = parse_manifest(here.content, here.media_type)
            self._children(document)
        self.referrers(digest)

    def _complete(self, found: RemoteManifest) -> Document:
        document = parse_manifest(found.raw, found.media_type)
        self._below(document)
        return document

    def _below(self, document: Document) -> None:
        self._children(document)
        for blob in needs(document):
            self._blob(blob)

    def _children(self, document: Document) -> None:
        for child in document.manifests:
            self._fetch(str(child.digest))

    def _put(self, document: Document, digest: Digest, tags: list[str]) -> None:
        manifests.put_manifest(self.actor, self.repository.full_name, document, digest, tags, platforms_of(document))
        self.moved.manifests += 1

    def _blob(self, blob: Descriptor) -> None:
        here = content.blob(self.repository.full_name, str(blob.digest))
        if here is not None or (self.owner is not None and mount(self.owner, self.repository, blob.digest, "")):
            self.moved.spared += 1
            return
        fetched = fetching.fetch(
            self.repository,
            blob.digest,
            blob.size,
            lambda offset: self.client.blob(self.name, str(blob.digest), offset),
            self.actor.name,
            wait=self.wait,
        )
        if fetched:
            self.moved.blobs += 1
            self.moved.bytes += blob.size
            self.report(f"fetched {str(blob.digest)[:19]} with {blob.size} bytes")
