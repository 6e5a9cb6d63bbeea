"""Pull an image: name -> manifest -> configuration -> layers, each digest checked before the next thing is believed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import httpx

from agent.images.distribution import RegistryClient, RegistryEndpoint
from agent.images.download import download
from agent.images.errors import ImageInvalid
from agent.images.image import Image, LayerBlob, chain_of, layers_of, parse_config
from agent.images.images import ImageStore
from agent.images.threads import entered, in_thread
from agent.images.transfers import Progress, Together
from agent.protocol.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    Manifest,
    Platform,
    Reference,
    parse_manifest,
)
from agent.storage.errors import DigestMismatch, LayerInvalid, LayerTooLarge, NoSpace

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_ACCEPT: Final = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_MAX_CONFIG: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reference names: `top` as the registry holds it (an index or the manifest itself), and the manifest for us."""

    top: Manifest
    top_digest: Digest
    manifest: Manifest


def host_platform() -> Platform:
    machine = os.uname().machine
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def _silent(event: dict[str, Any]) -> None:
    """The progress of a pull that nobody watches."""


async def pull(
    ref: Reference,
    *,
    store: ImageStore,
    endpoint: RegistryEndpoint,
    progress: Progress | None = None,
    platform: Platform | None = None,
) -> Image:
    """Fetch an image and give it the reference's names; what is on the node already is not fetched again.

    `progress` gets {"digest", "status": downloading|downloaded|extracting|done|exists, "current", "total"} a layer, from the
    event loop. Raises `WharfError`s: image_unknown, registry_*, digest_mismatch, layer_*, no_space, manifest_invalid.
    """
    report = progress or _silent
    async with RegistryClient(endpoint, ref.repository, "pull") as client:
        found = await _resolve(client, ref, platform or host_platform())
    config_blob = found.manifest.config
    if config_blob is None or config_blob.size > _MAX_CONFIG:
        raise ImageInvalid(f"{ref}: its configuration is missing or larger than {_MAX_CONFIG} bytes")
    pins = [str(found.top_digest), str(config_blob.digest), *(str(layer.digest) for layer in found.manifest.layers)]
    async with entered(store.pinned(pins)):
        await _fetch(config_blob, ref, store, endpoint, _silent)
        config = await in_thread(store.content.read, config_blob.digest)
        _check_platform(parse_config(config), platform)
        layers = layers_of(found.manifest, parse_config(config))
        async with entered(store.pinned(chain_of([layer.diff_id for layer in layers]))):
            await _layers(layers, found.manifest, ref, store, endpoint, report)
            return await in_thread(_register, store, ref, found, config, layers)


async def _resolve(client: RegistryClient, ref: Reference, platform: Platform) -> _Found:
    top, digest = await _manifest(client, ref.target, ref.digest)
    if not top.is_index:
        return _Found(top, digest, top)
    child = top.select(platform)
    manifest, _ = await _manifest(client, str(child.digest), child.digest)
    if manifest.is_index:
        raise ImageInvalid(f"{ref}: an index within an index is not followed")
    return _Found(top, digest, manifest)


async def _manifest(client: RegistryClient, target: str, expected: Digest | None) -> tuple[Manifest, Digest]:
    response, body = await client.request("GET", client.url(f"manifests/{target}"), headers={"Accept": _ACCEPT})
    manifest = parse_manifest(body, response.headers.get("content-type", ""))
    stated = expected or _stated(response)
    found = manifest.digest(stated.algorithm if stated else "sha256")
    if stated and found != stated:
        raise DigestMismatch(f"manifest {target} has digest {found}, expected {stated}")
    return manifest, found


def _stated(response: httpx.Response) -> Digest | None:
    text = response.headers.get("docker-content-digest")
    return Digest.parse(text) if text else None


def _check_platform(config: dict[str, Any], wanted: Platform | None) -> None:
    """Only a platform that was asked for is insisted on: single-platform images are often labelled carelessly."""
    if wanted and config.get("architecture") not in (None, "", wanted.architecture):
        raise ImageInvalid(f"the image is for {config.get('os')}/{config.get('architecture')}, not {wanted}")


async def _fetch(blob: Descriptor, ref: Reference, store: ImageStore, endpoint: RegistryEndpoint, progress: Progress) -> None:
    if await in_thread(store.content.has, blob.digest):
        return

    async def start(report: Progress) -> None:
        await download(blob, endpoint=endpoint, repository=ref.repository, content=store.content, progress=report)

    await store.transfers.fetch(str(blob.digest), start, progress)


async def _layers(
    layers: tuple[LayerBlob, ...],
    manifest: Manifest,
    ref: Reference,
    store: ImageStore,
    endpoint: RegistryEndpoint,
    report: Progress,
) -> None:
    """Download side by side, unpack in order, each layer as soon as it and those below are there."""
    await in_thread(_check_space, manifest, store)
    chain = chain_of([layer.diff_id for layer in layers])[::-1]
    async with Together() as group:
        arrivals = [
            group.create_task(_fetch(blob, ref, store, endpoint, report), name=f"layer {blob.digest.hex[:12]}")
            for blob in manifest.layers
        ]
        for index, layer in enumerate(layers):
            await arrivals[index]
            total = layer.size
            event = {"digest": str(layer.digest), "current": total, "total": total}
            known = await in_thread(store.driver.table.get, chain[index])
            if known is None:
                report({**event, "status": "extracting"})
                await in_thread(apply_layer, store, layer, chain[index], chain[index - 1] if index else None)
            report({**event, "status": "exists" if known else "done"})


def apply_layer(store: ImageStore, layer: LayerBlob, chain_id: str, parent: str | None) -> None:
    """Unpack a stored blob; blocking. A blob that turns out damaged is deleted, so that the next pull fetches it anew."""
    try:
        with store.content.open(layer.digest) as blob:
            store.driver.apply(chain_id, parent, blob, compressed=str(layer.digest))
    except (LayerInvalid, LayerTooLarge) as error:
        raise type(error)(f"layer {str(layer.digest)[:19]} of the image is refused: {error.detail}", **error.extra) from error
    except DigestMismatch as error:
        if "diff_id" not in error.extra:
            store.content.delete(layer.digest)
        raise


def _check_space(manifest: Manifest, store: ImageStore) -> None:
    missing = sum(max(0, layer.size - store.content.arrived(layer.digest)) for layer in manifest.layers)
    needed = missing + missing // 10
    free = store.content.free_bytes()
    if needed > free:
        raise NoSpace(
            f"the image needs {needed} more bytes, {free} are free: remove unused images or enlarge the disk", needed=needed
        )


def _register(store: ImageStore, ref: Reference, found: _Found, config: bytes, layers: tuple[LayerBlob, ...]) -> Image:
    names = [ref.pinned(found.top_digest)]
    if ref.tag or ref.digest is None:
        names.append(Reference(ref.registry, ref.repository, ref.tag or "latest"))
    indexes = [store.content.put(found.top.raw, found.top_digest)] if found.top.is_index else []
    return store.register(
        config=config,
        manifest=found.manifest.raw,
        manifest_type=found.manifest.media_type,
        layers=layers,
        references=names,
        indexes=indexes,
    )
