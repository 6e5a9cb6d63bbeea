"""Image archives as they lie on disk: an OCI image layout (directory or tar), or what `docker save` writes. Read in place.

OCI image-spec, image-layout.md; moby's image/spec v1.2 for manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from agent.protocol.errors import WharfError
from agent.protocol.oci import (
    MAX_MANIFEST_BYTES,
    MEDIA_OCI_CONFIG,
    MEDIA_OCI_INDEX,
    MEDIA_OCI_MANIFEST,
    Descriptor,
    Digest,
    Manifest,
    load_json,
    parse_manifest,
)
from controlplane.cli.session import Failure
from nodes.cli.layers import Blob, Part, compression, pack, plain

REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Image:
    """What to push, in order: blobs, then the manifests of an index, then the one that gets the tag."""

    blobs: tuple[Blob, ...]
    children: tuple[Manifest, ...]
    top: Manifest

    @property
    def size(self) -> int:
        return sum(blob.part.size for blob in self.blobs)


class Source(Protocol):
    """Files of an archive by their path in it."""

    def part(self, name: str) -> Part | None: ...


class Directory:
    def __init__(self, path: str) -> None:
        self._path = path

    def part(self, name: str) -> Part | None:
        path = os.path.join(self._path, name)
        return Part(path, 0, os.path.getsize(path)) if os.path.isfile(path) else None


class Tar:
    """A tar without compression: its files are read where they lie. Links inside it are followed (docker save makes some)."""

    def __init__(self, path: str) -> None:
        self._path = path
        with tarfile.open(path, "r:") as archive:
            self._members = {posixpath.normpath(member.name): member for member in archive}

    def part(self, name: str) -> Part | None:
        for _ in range(16):
            member = self._members.get(posixpath.normpath(name))
            if member is None or not (member.issym() or member.islnk()):
                break
            name = posixpath.join(posixpath.dirname(name), member.linkname) if member.issym() else member.linkname
        return Part(self._path, member.offset_data, member.size) if member is not None and member.isreg() else None


_HELD: list[IO[bytes]] = []  # temporary files end with the process


def on_disk(name: str, stdin: IO[bytes]) -> Part:
    """The file `name`, or standard input ("-") copied to a file without a name: it has to be read twice. Raises Failure."""
    if name == "-":
        return _kept(iter(lambda: stdin.read(1 << 20), b""))
    try:
        return Part(name, 0, os.stat(name).st_size)
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from None


def _kept(pieces: Iterator[bytes]) -> Part:
    file = tempfile.TemporaryFile(prefix="wharf-archive-")  # noqa: SIM115  # kept open by _HELD
    _HELD.append(file)
    for data in pieces:
        file.write(data)
    file.flush()
    return Part(f"/proc/self/fd/{file.fileno()}", 0, file.tell())


def source_of(name: str, stdin: IO[bytes]) -> Source:
    """A directory, a tar, or a compressed tar. Raises Failure."""
    if name != "-" and os.path.isdir(name):
        return Directory(name)
    part = on_disk(name, stdin)
    with part.open() as file:
        kind = compression(file.read(8))
    if kind:
        part = _kept(plain(part.pieces(), kind))
    try:
        return Tar(part.path)
    except (tarfile.TarError, OSError) as error:
        raise Failure(f"{name} is no image archive: {error}") from None


def read_image(source: Source, wanted: str = "", told: Callable[[str], None] = lambda text: None) -> Image:
    """The image that `wanted` names among several (a tag in the archive), or the only one. Raises Failure."""
    try:
        if source.part("index.json") is not None and source.part("oci-layout") is not None:
            return _of_layout(source, wanted)
        if source.part("manifest.json") is not None:
            return _of_docker(source, wanted, told)
    except WharfError as error:
        raise Failure(f"The archive cannot be read. {error.detail}") from None
    raise Failure("This is neither an OCI image layout (index.json) nor an archive of docker save (manifest.json).")


def _bytes(source: Source, name: str) -> bytes:
    part = source.part(name)
    if part is None:
        raise Failure(f"The archive has no {name}: it is not whole.")
    if part.size > MAX_MANIFEST_BYTES:
        raise Failure(f"{name} has {part.size} bytes, more than a document of an image may have.")
    return b"".join(part.pieces())


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _document(source: Source, digest: Digest) -> bytes:
    raw = _bytes(source, _blob_name(digest))
    if Digest.of(raw, digest.algorithm) != digest:
        raise Failure(f"{_blob_name(digest)} is damaged: its bytes have another digest.")
    return raw


def _of_layout(source: Source, wanted: str) -> Image:
    index = parse_manifest(_bytes(source, "index.json"), MEDIA_OCI_INDEX)
    chosen = _choose(index, wanted)
    top = parse_manifest(_document(source, chosen.digest), chosen.media_type)
    children: list[Manifest] = []
    blobs: dict[Digest, Blob] = {}
    _collect(source, top, children, blobs)
    return Image(tuple(blobs.values()), tuple(children), top)


def _choose(index: Manifest, wanted: str) -> Descriptor:
    names = {item.annotations.get(REF_NAME, ""): item for item in index.manifests}
    full = {item.annotations.get("io.containerd.image.name", ""): item for item in index.manifests}
    known = ", ".join(filter(None, names))
    if wanted:
        found = names.get(wanted) or full.get(wanted)
        if found is None:
            raise Failure(f"The archive holds no {wanted}; it holds {known or 'images without names'}.", 3)
        return found
    if len(index.manifests) != 1:
        raise Failure(f"The archive holds {len(index.manifests)} images: say --ref with one of {known}.", 2)
    return index.manifests[0]


def _collect(source: Source, manifest: Manifest, children: list[Manifest], blobs: dict[Digest, Blob]) -> None:
    for child in manifest.manifests:
        if source.part(_blob_name(child.digest)) is None:
            raise Failure(f"The archive lacks the image for {child.platform or child.digest}: save all platforms, or just one.")
        parsed = parse_manifest(_document(source, child.digest), child.media_type)
        _collect(source, parsed, children, blobs)
        children.append(parsed)
    for item in [*([manifest.config] if manifest.config else []), *manifest.layers]:
        part = source.part(_blob_name(item.digest))
        if part is not None:
            blobs[item.digest] = Blob(item, part)
        elif item.distributable:
            raise Failure(f"The archive lacks {_blob_name(item.digest)}: it is not whole.")


def _of_docker(source: Source, wanted: str, told: Callable[[str], None]) -> Image:
    listed: list[dict[str, Any]] = json.loads(_bytes(source, "manifest.json"))
    tags = [tag for entry in listed for tag in entry.get("RepoTags") or ()]
    found = [entry for entry in listed if wanted in (entry.get("RepoTags") or ())] if wanted else listed
    if not found:
        raise Failure(f"The archive holds no {wanted}; it holds {', '.join(tags) or 'images without names'}.", 3)
    if len(found) > 1:
        raise Failure(f"The archive holds {len(found)} images: say --ref with one of {', '.join(tags)}.", 2)
    config = _bytes(source, found[0]["Config"])
    layers = []
    for number, name in enumerate(found[0]["Layers"], 1):
        part = source.part(name)
        if part is None:
            raise Failure(f"The archive has no {name}: it is not whole.")
        told(f"Packing layer {number} of {len(found[0]['Layers'])}")
        layers.append(pack(part))
    if [layer.diff_id for layer in layers] != load_json(config).get("rootfs", {}).get("diff_ids"):
        raise Failure("The archive is damaged: its layers are not those that its configuration names.")
    return assemble(config, [layer.blob for layer in layers])


def assemble(config: bytes, layers: list[Blob]) -> Image:
    """An OCI image of a configuration and its layers' blobs."""
    descriptor = Descriptor(MEDIA_OCI_CONFIG, Digest("sha256", hashlib.sha256(config).hexdigest()), len(config), {})
    blob = Blob(descriptor, _kept(iter([config])))
    document = {
        "schemaVersion": 2,
        "mediaType": MEDIA_OCI_MANIFEST,
        "config": blob.descriptor.to_json(),
        "layers": [layer.descriptor.to_json() for layer in layers],
    }
    unique = {item.descriptor.digest: item for item in [blob, *layers]}
    return Image(tuple(unique.values()), (), parse_manifest(json.dumps(document, separators=(",", ":")).encode()))
