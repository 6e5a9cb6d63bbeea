"""Images out of archives: docker-archive (docker save, skopeo), OCI image layouts as tar or directory.

Sources: image-spec image-layout.md; the docker-archive format as moby's image/tarexport and skopeo write it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.images.bundle import Bundle, open_bundle
from agent.images.errors import ArchiveInvalid
from agent.images.image import Image, LayerBlob, chain_of, diff_ids_of, layers_of, parse_config
from agent.images.images import ImageStore
from agent.images.manifests import manifest_for
from agent.images.pull import apply_layer, host_platform
from agent.protocol.errors import InvalidInput
from agent.protocol.oci import (
    INDEX_TYPES,
    MEDIA_OCI_INDEX,
    MEDIA_OCI_LAYER,
    MEDIA_OCI_LAYER_GZIP,
    MEDIA_OCI_LAYER_ZSTD,
    MEDIA_OCI_MANIFEST,
    Descriptor,
    Digest,
    Reference,
    load_json,
    parse_manifest,
)
from agent.storage.compression import sniff

# What an index entry says its name is, the fuller one first.
_NAME_KEYS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_ATTESTATION: Final = "vnd.docker.reference.type"
MEDIA_BY_COMPRESSION: Final = {"none": MEDIA_OCI_LAYER, "gzip": MEDIA_OCI_LAYER_GZIP, "zstd": MEDIA_OCI_LAYER_ZSTD}


def load(path: str, store: ImageStore) -> list[Image]:
    """Take every image of an archive in, with its names. Blocking.

    `path`: a docker-archive or OCI layout tar (also compressed), or an OCI layout directory. Of a multi-platform index the
    image for this node is taken. Raises `ArchiveInvalid`, `DigestMismatch`, `layer_*`; images before the bad one stay.
    """
    bundle = open_bundle(path, store.content.root)
    try:
        with store.building():
            if bundle.has("oci-layout") and bundle.has("index.json"):
                return _load_layout(bundle, store)
            if bundle.has("manifest.json"):
                return [_load_docker(bundle, row, store) for row in _docker_rows(bundle)]
    finally:
        bundle.close()
    raise ArchiveInvalid("no image archive: it has neither manifest.json (docker save) nor oci-layout and index.json")


# --- OCI layout ------------------------------------------------------------


def _load_layout(bundle: Bundle, store: ImageStore) -> list[Image]:
    index = parse_manifest(bundle.read("index.json"), MEDIA_OCI_INDEX)
    names = _docker_names(bundle)
    images = [_load_entry(bundle, entry, names, store) for entry in index.manifests if _ATTESTATION not in entry.annotations]
    if not images:
        raise ArchiveInvalid("the OCI layout's index.json lists no image")
    return images


def _load_entry(bundle: Bundle, entry: Descriptor, names: Mapping[str, list[Reference]], store: ImageStore) -> Image:
    manifest = parse_manifest(_blob(bundle, entry.digest), entry.media_type)
    indexes: list[Digest] = []
    if manifest.media_type in INDEX_TYPES:
        indexes.append(store.content.put(manifest.raw, entry.digest))
        child = manifest.select(host_platform())
        manifest = parse_manifest(_blob(bundle, child.digest), child.media_type)
    if manifest.config is None:
        raise ArchiveInvalid(f"{entry.digest}: an index within an index is not followed")
    config = _blob(bundle, manifest.config.digest)
    layers = layers_of(manifest, parse_config(config))
    for layer in layers:
        if not store.content.has(layer.digest):
            store.content.put(bundle.chunks(_blob_name(layer.digest)), layer.digest)
    _apply(store, layers)
    references = names.get(str(manifest.config.digest)) or _annotated_names(entry.annotations)
    return store.register(
        config=config,
        manifest=manifest.raw,
        manifest_type=manifest.media_type,
        layers=layers,
        references=references,
        indexes=indexes,
    )


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _blob(bundle: Bundle, digest: Digest) -> bytes:
    data = bundle.read(_blob_name(digest))
    if Digest.of(data, digest.algorithm) != digest:
        raise ArchiveInvalid(f"blob {digest} in the archive has other content than its name says")
    return data


def _annotated_names(annotations: Mapping[str, str]) -> list[Reference]:
    for key in _NAME_KEYS:
        text = annotations.get(key, "")
        if ":" in text or "/" in text:  # a bare word is a tag of an unnamed repository
            try:
                return [Reference.parse(text)]
            except InvalidInput:
                continue
    return []


# --- docker-archive ------------------------------------------------------------


def _docker_rows(bundle: Bundle) -> list[dict[str, Any]]:
    # The document is a list; the strict parser takes objects.
    rows = load_json(b'{"rows":' + bundle.read("manifest.json") + b"}")["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ArchiveInvalid("manifest.json in the archive is not a list of images")
    return rows


def _docker_names(bundle: Bundle) -> dict[str, list[Reference]]:
    """Names by configuration digest, from the manifest.json that current `docker save` adds to a layout."""
    if not bundle.has("manifest.json"):
        return {}
    return {str(Digest.of(bundle.read(str(row.get("Config"))))): _repo_tags(row) for row in _docker_rows(bundle)}


def _repo_tags(row: Mapping[str, Any]) -> list[Reference]:
    return [Reference.parse(str(name)) for name in row.get("RepoTags") or ()]


def _load_docker(bundle: Bundle, row: Mapping[str, Any], store: ImageStore) -> Image:
    config = bundle.read(str(row.get("Config")))
    diff_ids = diff_ids_of(parse_config(config))
    names = row.get("Layers") or []
    if not isinstance(names, list) or len(names) != len(diff_ids):
        raise ArchiveInvalid(f"manifest.json names {len(names)} layers, the configuration {len(diff_ids)}")
    layers = tuple(_docker_layer(bundle, str(name), diff_id, store) for name, diff_id in zip(names, diff_ids, strict=True))
    _apply(store, layers)
    return store.register(
        config=config,
        manifest=manifest_for(config, layers),
        manifest_type=MEDIA_OCI_MANIFEST,
        layers=layers,
        references=_repo_tags(row),
    )


def _docker_layer(bundle: Bundle, name: str, diff_id: str, store: ImageStore) -> LayerBlob:
    media_type, chunks = identified(bundle.chunks(name))
    digest = store.content.put(chunks)
    return LayerBlob(digest, store.content.size(digest), media_type, diff_id)


def identified(chunks: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The layer media type that the stream's first bytes tell, and the whole stream again. Raises `ArchiveInvalid`."""
    head = b""
    while len(head) < 6 and (chunk := next(chunks, None)) is not None:
        head += chunk
    media_type = MEDIA_BY_COMPRESSION.get(sniff(head) if len(head) >= 6 else "none")
    if media_type is None:
        raise ArchiveInvalid(f"layers compressed by {sniff(head)} are not part of the image format: use gzip or zstd")
    return media_type, itertools.chain((head,), chunks)


def _apply(store: ImageStore, layers: tuple[LayerBlob, ...]) -> None:
    parent: str | None = None
    for layer, identifier in zip(layers, reversed(chain_of([layer.diff_id for layer in layers])), strict=True):
        if store.driver.table.get(identifier) is None:
            apply_layer(store, layer, identifier, parent)
        parent = identifier
