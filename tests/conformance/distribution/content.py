"""The data sets of the suite: small images, indexes and artifacts, made fresh for each case."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.protocol.oci import (
    MEDIA_OCI_CONFIG,
    MEDIA_OCI_EMPTY,
    MEDIA_OCI_INDEX,
    MEDIA_OCI_LAYER,
    MEDIA_OCI_LAYER_GZIP,
    MEDIA_OCI_MANIFEST,
)
from tests.conformance.distribution.client import digest_of

Json = dict[str, Any]


@dataclass
class Document:
    """A manifest with what must be pushed before it."""

    raw: bytes
    media_type: str
    blobs: list[bytes] = field(default_factory=list)
    children: list[Document] = field(default_factory=list)
    algorithm: str = "sha256"
    absent: set[str] = field(default_factory=set)  # digests that are named and never pushed

    @property
    def digest(self) -> str:
        return digest_of(self.raw, self.algorithm)

    @property
    def json(self) -> Json:
        return json.loads(self.raw)  # type: ignore[no-any-return]  # an object by construction

    def descriptor(self, **more: Any) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw), **more}


def descriptor(data: bytes, media_type: str, algorithm: str = "sha256", **more: Any) -> Json:
    return {"mediaType": media_type, "digest": digest_of(data, algorithm), "size": len(data), **more}


def layer(compress: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = os.urandom(200)
        info = tarfile.TarInfo("file")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue()) if compress else buffer.getvalue()


def manifest(
    config: Json,
    layers: list[Json],
    blobs: list[bytes],
    *,
    algorithm: str = "sha256",
    media_type: str = MEDIA_OCI_MANIFEST,
    **more: Any,
) -> Document:
    body = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers, **more}
    return Document(json.dumps(body, indent=1).encode(), media_type, blobs, algorithm=algorithm)


def image(
    *, compress: bool = True, algorithm: str = "sha256", architecture: str = "amd64", data_field: bool = False, **more: Any
) -> Document:
    blobs = [layer(compress), layer(compress)]
    rootfs = {"type": "layers", "diff_ids": []}
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": rootfs, "n": os.urandom(4).hex()}).encode()
    media_type = MEDIA_OCI_LAYER_GZIP if compress else MEDIA_OCI_LAYER
    described = descriptor(config, MEDIA_OCI_CONFIG, algorithm)
    if data_field:
        described["data"] = base64.b64encode(config).decode()
    layers = [descriptor(item, media_type, algorithm) for item in blobs]
    return manifest(described, layers, [config, *blobs], algorithm=algorithm, **more)


def index(*children: Document, algorithm: str = "sha256", **more: Any) -> Document:
    body = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": [child.descriptor() for child in children], **more}
    return Document(json.dumps(body).encode(), MEDIA_OCI_INDEX, children=list(children), algorithm=algorithm)


def artifact(
    artifact_type: str,
    *,
    subject: Document | None = None,
    layers: bool = True,
    annotations: Mapping[str, str] | None = None,
) -> Document:
    blobs = [os.urandom(50)] if layers else [b"{}"]
    media_type = "application/vnd.example.data" if layers else MEDIA_OCI_EMPTY
    more: Json = {"artifactType": artifact_type, "annotations": {"org.example.n": os.urandom(4).hex(), **(annotations or {})}}
    if subject is not None:
        more["subject"] = subject.descriptor()
    return manifest(descriptor(b"{}", MEDIA_OCI_EMPTY), [descriptor(item, media_type) for item in blobs], [b"{}", *blobs], **more)


def large_manifest() -> Document:
    return image(annotations={f"org.example.large.{number}": "x" * 10_000 for number in range(390)})


def non_distributable() -> Document:
    absent = os.urandom(64)
    kept = layer()
    config = b'{"architecture":"amd64","os":"linux"}'
    layers = [
        descriptor(kept, MEDIA_OCI_LAYER_GZIP),
        descriptor(
            absent, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", urls=["https://store.example.com/layer"]
        ),
    ]
    document = manifest(descriptor(config, MEDIA_OCI_CONFIG), layers, [config, kept])
    document.absent = {digest_of(absent)}
    return document


def missing_subject() -> Document:
    return artifact("application/vnd.example.lonely", subject=image())


DATA_SETS = {
    "image": image,
    "image uncompressed": lambda: image(compress=False),
    "large manifest": large_manifest,
    "index": lambda: index(image(), image(architecture="arm64")),
    "nested index": lambda: index(index(image(), image(architecture="arm64")), image()),
    "empty index": index,
    "artifact": lambda: artifact("application/vnd.example.sbom"),
    "artifact index": lambda: index(artifact("application/vnd.example.a"), artifactType="application/vnd.example.list"),
    "artifact without layers": lambda: artifact("application/vnd.example.empty", layers=False),
    "data field": lambda: image(data_field=True),
    "non-distributable layers": non_distributable,
    "custom fields": lambda: image(**{"org.example.custom": {"nested": [1, 2.5, None, "ü"]}}),
    "no layers": lambda: manifest(descriptor(b"{}", MEDIA_OCI_CONFIG), [], [b"{}"]),
    "missing subject": missing_subject,
}
