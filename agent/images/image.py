"""An image as other rooms see it, and the row that the image store keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.images.errors import ImageInvalid
from agent.protocol.oci import Digest, Manifest, ManifestInvalid, load_json
from agent.storage.table import chain_id


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as it is stored and sent: digest and media type of the (compressed) blob, diff_id of the archive inside."""

    digest: Digest
    size: int
    media_type: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """`id` is the configuration's digest; `chain` the chain ids, topmost first; `size` the bytes of all files of all layers.

    `config` is the whole OCI image configuration document (its "config" key holds Cmd, Env and so on).
    """

    id: str
    manifest: str
    manifest_type: str
    config: Mapping[str, Any]
    layers: tuple[LayerBlob, ...]
    chain: tuple[str, ...]
    size: int
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    indexes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def created(self) -> str:
        """RFC 3339, or "" when the image does not say."""
        return str(self.config.get("created") or "")

    @property
    def architecture(self) -> str:
        return str(self.config.get("architecture") or "")

    @property
    def os(self) -> str:
        return str(self.config.get("os") or "")

    @property
    def run_config(self) -> Mapping[str, Any]:
        """Cmd, Entrypoint, Env, User, WorkingDir, Volumes, ExposedPorts, Labels, StopSignal, Healthcheck."""
        found = self.config.get("config")
        return found if isinstance(found, dict) else {}


def parse_config(raw: bytes) -> dict[str, Any]:
    """An image configuration: strict JSON with rootfs.diff_ids (image-spec config.md). Raises `ImageInvalid`."""
    try:
        config = load_json(raw)
    except ManifestInvalid as error:
        raise ImageInvalid(f"image configuration: {error.detail}") from error
    diff_ids_of(config)
    return config


def diff_ids_of(config: Mapping[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) and not (rootfs and diff_ids is None and rootfs.get("type") == "layers"):
        raise ImageInvalid("image configuration: rootfs.diff_ids is missing; this is no container image")
    found = [str(item) for item in diff_ids or ()]
    for item in found:
        if Digest.parse(item).algorithm != "sha256":
            raise ImageInvalid("image configuration: diff_ids other than sha256 are not supported")
    return found


def layers_of(manifest: Manifest, config: Mapping[str, Any]) -> tuple[LayerBlob, ...]:
    """Pair the manifest's layers with the configuration's diff_ids. Raises `ImageInvalid` when they cannot belong together."""
    diff_ids = diff_ids_of(config)
    if len(diff_ids) != len(manifest.layers):
        raise ImageInvalid(f"the manifest has {len(manifest.layers)} layers, its configuration {len(diff_ids)} diff_ids")
    for layer in manifest.layers:
        if not layer.distributable:
            raise ImageInvalid(f"layer {layer.digest} is not distributable ({layer.media_type}): foreign layers are not fetched")
    return tuple(
        LayerBlob(layer.digest, layer.size, layer.media_type, diff_id)
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
    )


def chain_of(diff_ids: list[str]) -> tuple[str, ...]:
    """Chain ids, topmost first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.insert(0, chain_id(chain[0] if chain else None, diff_id))
    return tuple(chain)


def config_id(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def to_row(image: Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "manifest": image.manifest,
        "manifest_type": image.manifest_type,
        "layers": [
            {"digest": str(layer.digest), "size": layer.size, "media_type": layer.media_type, "diff_id": layer.diff_id}
            for layer in image.layers
        ],
        "size": image.size,
        "repo_digests": list(image.repo_digests),
        "indexes": list(image.indexes),
    }


def from_row(row: Mapping[str, Any], config: Mapping[str, Any], tags: tuple[str, ...]) -> Image:
    layers = tuple(
        LayerBlob(Digest.parse(item["digest"]), item["size"], item["media_type"], item["diff_id"]) for item in row["layers"]
    )
    return Image(
        id=row["id"],
        manifest=row["manifest"],
        manifest_type=row["manifest_type"],
        config=config,
        layers=layers,
        chain=chain_of([layer.diff_id for layer in layers]),
        size=row["size"],
        repo_tags=tags,
        repo_digests=tuple(row["repo_digests"]),
        indexes=tuple(row["indexes"]),
    )
