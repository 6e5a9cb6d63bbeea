"""Manifests that we write ourselves: for images loaded, imported or committed here, and compressed layers for the way out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from agent.images.image import Image, LayerBlob
from agent.images.images import ImageStore
from agent.protocol.oci import (
    MEDIA_OCI_CONFIG,
    MEDIA_OCI_LAYER,
    MEDIA_OCI_LAYER_GZIP,
    MEDIA_OCI_MANIFEST,
    Digest,
)

_PIECE: Final = 1 << 20
_LEVEL: Final = 6


def manifest_for(config: bytes, layers: Iterable[LayerBlob], annotations: dict[str, str] | None = None) -> bytes:
    """An OCI image manifest (image-spec manifest.md) over a configuration and stored layers."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_OCI_MANIFEST,
        "config": {"mediaType": MEDIA_OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": layer.media_type, "digest": str(layer.digest), "size": layer.size} for layer in layers],
    }
    if annotations:
        document["annotations"] = annotations
    return encode(document)


def encode(document: Any) -> bytes:
    """Compact JSON with sorted keys: equal documents get equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def gzip_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member without name or time, so that equal layers compress to equal blobs."""
    encoder = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    for chunk in chunks:
        yield encoder.compress(chunk)
    yield encoder.flush()


def compressed_for_push(store: ImageStore, image: Image) -> Image:
    """The image with every layer compressed, storing what is new; the same image when nothing was plain. Blocking."""
    if all(layer.media_type != MEDIA_OCI_LAYER for layer in image.layers):
        return image
    with store.building():
        layers = tuple(_compressed(store, layer) if layer.media_type == MEDIA_OCI_LAYER else layer for layer in image.layers)
        config = store.content.read(Digest.parse(image.id))
        return store.set_manifest(image.id, manifest_for(config, layers), MEDIA_OCI_MANIFEST, layers)


def _compressed(store: ImageStore, layer: LayerBlob) -> LayerBlob:
    with store.content.open(layer.digest) as source:
        digest = store.content.put(gzip_chunks(iter(lambda: source.read(_PIECE), b"")))
    return replace(layer, digest=digest, size=store.content.size(digest), media_type=MEDIA_OCI_LAYER_GZIP)
