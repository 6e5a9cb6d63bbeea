"""Images into archives: docker-archive (what `docker load` of any age reads) and OCI layouts, as a stream or a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from agent.images.image import Image
from agent.images.images import ImageStore
from agent.images.manifests import encode
from agent.protocol.errors import InvalidInput
from agent.protocol.oci import MEDIA_OCI_INDEX, Digest
from agent.storage import durable
from agent.storage.compression import plain_chunks
from agent.storage.limits import Limits
from agent.storage.tarread import BLOCK, DIRECTORY, REGULAR
from agent.storage.tarwrite import END, file_bytes, header

DOCKER_ARCHIVE: Final = "docker-archive"
OCI_ARCHIVE: Final = "oci-archive"
_PIECE: Final = 1 << 20
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


class FormatUnknown(InvalidInput):
    code = "archive_format_unknown"


def save(store: ImageStore, names: list[str], form: str = DOCKER_ARCHIVE) -> Iterator[bytes]:
    """A tar stream of images: "docker-archive" or "oci-archive". An image asked for by id keeps no name in it.

    Raises `ImageUnknown`, `FormatUnknown` before the first byte; blocking, for use in a thread.
    """
    if form not in (DOCKER_ARCHIVE, OCI_ARCHIVE):
        raise FormatUnknown(f"archive format {form!r} is not known: {DOCKER_ARCHIVE} or {OCI_ARCHIVE}")
    images = _grouped(store, names)
    return _docker(store, images) if form == DOCKER_ARCHIVE else _layout_tar(store, images)


def save_directory(store: ImageStore, names: list[str], path: str) -> None:
    """An OCI layout as a directory (made if absent); blobs that are there already are kept, index.json is replaced."""
    images = _grouped(store, names)
    os.makedirs(path, exist_ok=True)
    with store.pinned(_blobs(images)):
        for text in _blobs(images):
            digest = Digest.parse(text)
            target = os.path.join(path, _blob_name(digest))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.exists(target):
                _copy(store, digest, target)
    durable.write(os.path.join(path, "oci-layout"), _LAYOUT)
    durable.write(os.path.join(path, "index.json"), _index(store, images))


def _copy(store: ImageStore, digest: Digest, target: str) -> None:
    temporary = f"{target}.tmp"
    with store.content.open(digest) as source, open(temporary, "wb") as file:
        while data := source.read(_PIECE):
            file.write(data)
    os.replace(temporary, target)


def _grouped(store: ImageStore, names: list[str]) -> list[tuple[Image, list[str]]]:
    """Each image once, with those of its names that were asked for."""
    found: dict[str, tuple[Image, list[str]]] = {}
    for name in names:
        image = store.get(name)
        _, tags = found.setdefault(image.id, (image, []))
        tags += [tag for tag in image.repo_tags if tag in (name, f"{name}:latest") and tag not in tags]
    return list(found.values())


def _blobs(images: list[tuple[Image, list[str]]]) -> list[str]:
    texts = [text for image, _ in images for text in (image.manifest, image.id, *(str(layer.digest) for layer in image.layers))]
    return list(dict.fromkeys(texts))


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _docker(store: ImageStore, images: list[tuple[Image, list[str]]]) -> Iterator[bytes]:
    rows: list[dict[str, Any]] = []
    written: set[str] = set()
    with store.pinned(_blobs(images)):
        for image, tags in images:
            config = f"{Digest.parse(image.id).hex}.json"
            rows.append(
                {"Config": config, "RepoTags": tags or None, "Layers": [_layer_name(layer.diff_id) for layer in image.layers]}
            )
            yield file_bytes(config, store.content.read(Digest.parse(image.id)))
            for layer, identifier in zip(image.layers, reversed(image.chain), strict=True):
                if layer.diff_id not in written:
                    written.add(layer.diff_id)
                    yield from _plain_layer(
                        store, layer.digest, _layer_name(layer.diff_id), store.driver.table.require(identifier).tar_size
                    )
        yield file_bytes("manifest.json", encode(rows))
        yield END


def _layer_name(diff_id: str) -> str:
    return f"{Digest.parse(diff_id).hex}.tar"


def _plain_layer(store: ImageStore, digest: Digest, name: str, size: int) -> Iterator[bytes]:
    yield header(name.encode(), REGULAR, 0o644, size=size)
    with store.content.open(digest) as blob:
        yield from plain_chunks(blob.read, Limits())
    yield bytes(-size % BLOCK)


def _layout_tar(store: ImageStore, images: list[tuple[Image, list[str]]]) -> Iterator[bytes]:
    with store.pinned(_blobs(images)):
        yield file_bytes("oci-layout", _LAYOUT)
        yield file_bytes("index.json", _index(store, images))
        digests = [Digest.parse(text) for text in _blobs(images)]
        for folder in ("blobs/", *sorted({f"blobs/{digest.algorithm}/" for digest in digests})):
            yield header(folder.encode(), DIRECTORY, 0o755)
        for digest in digests:
            size = store.content.size(digest)
            yield header(_blob_name(digest).encode(), REGULAR, 0o644, size=size)
            with store.content.open(digest) as blob:
                while data := blob.read(_PIECE):
                    yield data
            yield bytes(-size % BLOCK)
        yield END


def _index(store: ImageStore, images: list[tuple[Image, list[str]]]) -> bytes:
    entries: list[dict[str, Any]] = []
    for image, tags in images:
        digest = Digest.parse(image.manifest)
        entry: dict[str, Any] = {"mediaType": image.manifest_type, "digest": image.manifest, "size": store.content.size(digest)}
        if image.architecture:
            entry["platform"] = {"os": image.os, "architecture": image.architecture}
        for tag in tags or [""]:
            names = {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": tag}
            entries.append({**entry, "annotations": names} if tag else entry)
    return encode({"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": entries})
