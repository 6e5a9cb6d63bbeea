"""New images made on this node: from a root file system's tarball (`docker import`) and from a container (`docker commit`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Final

from agent.images.archive import identified
from agent.images.changes import apply_changes
from agent.images.image import Image, LayerBlob
from agent.images.images import ImageStore
from agent.images.manifests import encode, gzip_chunks, manifest_for
from agent.images.pull import host_platform
from agent.protocol.oci import MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_MANIFEST, Platform, Reference
from agent.storage.compression import plain_chunks, sniff
from agent.storage.limits import Limits

_PIECE: Final = 1 << 20


def import_rootfs(
    source: IO[bytes],
    reference: Reference | None,
    *,
    store: ImageStore,
    changes: Iterable[str] = (),
    message: str = "",
    platform: Platform | None = None,
) -> Image:
    """A one-layer image of a root file system archive (plain, gzip, zstd, xz or bzip2). Blocking.

    `changes`: instructions as "CMD [\\"/bin/sh\\"]", "ENV A=b". Raises `ImageInvalid` on a bad one before anything is read.
    """
    run_config = apply_changes({}, changes)
    where = platform or host_platform()
    with store.building():
        media_type, chunks = _layer_stream(source)
        layer = _store_layer(store, media_type, chunks, None)
        document = {
            "created": _now(),
            "architecture": where.architecture,
            "os": where.os,
            **({"variant": where.variant} if where.variant else {}),
            "config": run_config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": _now(), "comment": message or "imported"}],
        }
        return _register(store, document, (layer,), reference)


def commit(
    container_id: str,
    reference: Reference | None,
    *,
    store: ImageStore,
    parent: Image | None,
    run_config: Mapping[str, Any] | None = None,
    changes: Iterable[str] = (),
    author: str = "",
    message: str = "",
) -> Image:
    """An image of what a container has made of `parent` (None: of nothing). Blocking; the caller has paused the container.

    `run_config` (the container's own Cmd, Env, …) replaces the parent's; `changes` apply on top.
    """
    base = parent.config if parent else {}
    config = apply_changes(dict(run_config if run_config is not None else base.get("config") or {}), changes)
    with store.building():
        layers = parent.layers if parent else ()
        top = parent.chain[0] if parent and parent.chain else None
        layer = _store_layer(store, MEDIA_OCI_LAYER_GZIP, gzip_chunks(store.driver.diff(container_id)), top)
        where = host_platform()
        step = {"created": _now(), **({"author": author} if author else {}), **({"comment": message} if message else {})}
        document = {
            "architecture": where.architecture,
            "os": where.os,
            **base,
            "created": _now(),
            **({"author": author} if author else {}),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [item.diff_id for item in (*layers, layer)]},
            "history": [*(base.get("history") or ()), step],
        }
        return _register(store, document, (*layers, layer), reference)


def _layer_stream(source: IO[bytes]) -> tuple[str, Iterator[bytes]]:
    """Gzip, zstd and plain archives stay as they are; what the image format does not know becomes gzip."""
    raw = iter(lambda: source.read(_PIECE), b"")
    head = b""
    while len(head) < 6 and (chunk := next(raw, None)) is not None:
        head += chunk
    whole = _Rejoined(head, raw)
    if len(head) >= 6 and sniff(head) in ("xz", "bzip2"):
        return MEDIA_OCI_LAYER_GZIP, gzip_chunks(plain_chunks(whole.read, Limits()))
    return identified(iter(lambda: whole.read(_PIECE), b""))


class _Rejoined:
    def __init__(self, head: bytes, rest: Iterator[bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        data, self._head = self._head, b""
        return data or next(self._rest, b"")


def _store_layer(store: ImageStore, media_type: str, chunks: Iterator[bytes], parent: str | None) -> LayerBlob:
    digest = store.content.put(chunks)
    with store.content.open(digest) as blob:
        applied = store.driver.apply(None, parent, blob, compressed=str(digest))
    return LayerBlob(digest, store.content.size(digest), media_type, applied.diff_id)


def _register(store: ImageStore, document: dict[str, Any], layers: tuple[LayerBlob, ...], reference: Reference | None) -> Image:
    config = encode(document)
    return store.register(
        config=config,
        manifest=manifest_for(config, layers),
        manifest_type=MEDIA_OCI_MANIFEST,
        layers=layers,
        references=[reference] if reference else [],
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
