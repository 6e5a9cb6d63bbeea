"""A registry without HTTP: the same writes in the same order as registry.v2 makes them, for tests of what rows and files do."""

from __future__ import annotations

from agent.protocol.oci import Digest, parse_manifest
from controlplane.api.actor import SYSTEM
from registry.actions import blobs, manifests, uploads
from registry.actions.repositories import ensure_repository
from registry.models import Blob, Manifest
from registry.queries import content
from registry.storage.store import BlobStore
from tests.integration.registry.world_bytes import digest_of, manifest_of

__all__ = ["digest_of", "head_blob", "lost_blobs", "manifest_of", "mount", "push_blob", "push_manifest"]


def push_blob(store: BlobStore, name: str, data: bytes) -> Digest:
    """Like POST ?digest=."""
    repository, digest = ensure_repository(SYSTEM, name), digest_of(data)
    if not uploads.adopt(repository.pk, digest, len(data), "test"):
        store.put(digest, data)
        uploads.finish(store, repository.pk, digest, len(data), "test")
    return digest


def head_blob(name: str, digest: Digest) -> bool:
    """Like HEAD by a pusher: what is found is protected for a grace."""
    row = content.blob(name, str(digest))
    return row is not None and blobs.touch(row)


def mount(name: str, digest: Digest, source: str) -> bool:
    return blobs.mount(SYSTEM, ensure_repository(SYSTEM, name), digest, source)


def push_manifest(name: str, raw: bytes, tag: str) -> str:
    document = parse_manifest(raw)
    return manifests.put_manifest(SYSTEM, name, document, document.digest(), [tag], []).digest


def lost_blobs(store: BlobStore) -> list[str]:
    """What some manifest or live row promises and the store cannot give, byte for byte. Must be empty, always."""
    lost = []
    promised = {
        str(item.digest)
        for row in Manifest.objects.all()
        for document in [parse_manifest(bytes(row.content))]
        for item in (*document.layers, document.config)
        if item is not None
    }
    live = set(Blob.objects.filter(state=Blob.State.LIVE).values_list("digest", flat=True))
    lost += [f"{digest} has no live row" for digest in sorted(promised - live)]
    for text in sorted(promised | live):
        blob = store.open(Digest.parse(text))
        if blob is None:
            lost.append(f"{text} has no file")
            continue
        if str(digest_of(blob.read_at(0, blob.size))) != text:
            lost.append(f"{text} is corrupt")
        blob.close()
    return lost
