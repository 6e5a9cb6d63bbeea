"""The image store: which images a node has, under which names, and who needs them. `<data>/image/<driver>/`.

    images/<hex>.json   a row an image        tags.json   {"repository:tag": image id}        holds/<owner>   an image id

Rows are hints about blobs and layers that exist; the truth of a blob is its digest. Everything here blocks (small files, locks):
the agent calls it from threads. Content is shared by all drivers, so `gc` looks at every driver's rows.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agent.images.errors import ImageInUse, ImageInvalid, ImageUnknown, ReferenceAmbiguous
from agent.images.image import Image, LayerBlob, chain_of, config_id, from_row, parse_config, to_row
from agent.images.store import ContentStore
from agent.images.transfers import Transfers
from agent.protocol.errors import Internal, InvalidInput
from agent.protocol.oci import Digest, Reference
from agent.storage import durable
from agent.storage.driver import GraphDriver
from agent.storage.errors import LayerInUse
from agent.storage.table import check_container


class ImageStoreMisplaced(Internal):
    """A mistake in our own wiring: garbage collection would miss the other drivers' images."""

    code = "image_store_misplaced"


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: names taken away, images deleted (ids), bytes of blobs freed."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed: int


class ImageStore:
    """`root` is `<data>/image/<driver's name>`: its siblings are the other drivers' rows, whose blobs are not garbage."""

    def __init__(self, root: str, content: ContentStore, driver: GraphDriver) -> None:
        if os.path.basename(root) != driver.name:
            raise ImageStoreMisplaced(f"the images of driver {driver.name} belong in <data>/image/{driver.name}, not in {root}")
        self.root = root
        self._all_drivers = os.path.dirname(root)
        self.content = content
        self.driver = driver
        self.transfers = Transfers()
        self._lock = threading.RLock()
        self._pins: Counter[str] = Counter()
        self._builders = 0
        self._gc_wanted = False
        for part in ("images", "holds"):
            os.makedirs(os.path.join(self.root, part), mode=0o700, exist_ok=True)
            durable.sweep(os.path.join(self.root, part))
        durable.sweep(self.root)

    # --- questions -----------------------------------------------------------------------------------------------------------

    def list(self) -> list[Image]:
        """All images, newest first."""
        with self._lock:
            tags = self._tags()
            images = [self._load(row, tags) for row in self._rows(self.root)]
        return sorted(images, key=lambda image: image.created, reverse=True)

    def get(self, name: str) -> Image:
        """By reference (`repo`, `repo:tag`, `repo@digest`), image id, or unique beginning of an id.

        Raises `ImageUnknown`, `ReferenceAmbiguous`.
        """
        with self._lock:
            tags = self._tags()
            identifier = self._by_reference(name, tags) or self._by_id(name)
            row = self._row(identifier) if identifier else None
            if row is None:
                raise ImageUnknown(f"no such image on this node: {name[:300]!r}; pull it first", image=name[:300])
            return self._load(row, tags)

    def _by_reference(self, name: str, tags: dict[str, str]) -> str | None:
        try:
            reference = Reference.parse(name)
        except InvalidInput:
            return None
        if reference.digest is None:
            return tags.get(canonical(reference))
        pinned = repo_digest(reference, str(reference.digest))
        return next((str(row["id"]) for row in self._rows(self.root) if pinned in row["repo_digests"]), None)

    def _by_id(self, name: str) -> str | None:
        text = name.removeprefix("sha256:")
        if not text or not set(text) <= set("0123456789abcdef"):
            return None
        found = [entry for entry in os.listdir(os.path.join(self.root, "images")) if entry.startswith(text)]
        if len(found) > 1:
            raise ReferenceAmbiguous(f"{len(found)} images' ids begin with {text!r}: give more digits")
        return f"sha256:{found[0].removesuffix('.json')}" if found else None

    def holders(self, image_id: str) -> tuple[str, ...]:
        """Owners that `hold` it, sorted."""
        directory = os.path.join(self.root, "holds")
        with self._lock:
            found = [name for name in os.listdir(directory) if durable.read_json(os.path.join(directory, name)) == image_id]
        return tuple(sorted(found))

    # --- writes --------------------------------------------------------------------------------------------------------------

    def register(
        self,
        *,
        config: bytes,
        manifest: bytes,
        manifest_type: str,
        layers: tuple[LayerBlob, ...],
        references: Iterable[Reference] = (),
        indexes: Iterable[Digest] = (),
    ) -> Image:
        """Make an image of blobs that are stored and layers that are applied.

        A reference with a tag moves the tag here; one with a digest becomes a repo digest. Idempotent: an image that is known
        gains the names. Raises `ImageInvalid`, `LayerUnknown`.
        """
        parsed = parse_config(config)
        chain = chain_of([layer.diff_id for layer in layers])
        size = sum(self.driver.table.require(identifier).size for identifier in chain)
        references = list(references)
        with self._lock:
            identifier = str(self.content.put(config))
            known = self._row(identifier)
            image = Image(identifier, "", manifest_type, parsed, layers, chain, size)
            if known and known["repo_digests"] and not any(ref.digest for ref in references):
                # The same image out of an archive: the manifest that registries know it by stays, and a push keeps its digest.
                image = self._load(known, {})
            else:
                image = replace(image, manifest=str(self.content.put(manifest)))
            digests = {repo_digest(ref, str(ref.digest)) for ref in references if ref.digest}
            image = replace(
                image,
                repo_digests=tuple(sorted(digests.union(known["repo_digests"] if known else ()))),
                indexes=tuple(sorted({str(index) for index in indexes}.union(known["indexes"] if known else ()))),
            )
            durable.write_json(self._image_path(identifier), to_row(image))
            self._move_tags({canonical(ref): identifier for ref in references if ref.tag or not ref.digest})
            return self.get(identifier)

    def tag(self, name: str, reference: Reference) -> None:
        """Give an image one more name; the name leaves the image that had it."""
        if reference.digest:
            raise ImageInvalid("a tag cannot name a digest: digests name content, they are not given")
        with self._lock:
            self._move_tags({canonical(reference): self.get(name).id})

    def set_manifest(self, image_id: str, manifest: bytes, manifest_type: str, layers: tuple[LayerBlob, ...]) -> Image:
        """Another manifest for the same image (its layers were compressed for a push)."""
        with self._lock:
            row = self._row(image_id)
            if row is None:
                raise ImageUnknown(f"no such image on this node: {image_id}")
            image = replace(
                self._load(row, {}), manifest=str(self.content.put(manifest)), manifest_type=manifest_type, layers=layers
            )
            durable.write_json(self._image_path(image_id), to_row(image))
            return self.get(image_id)

    def add_repo_digest(self, image_id: str, reference: Reference, digest: Digest) -> None:
        with self._lock:
            row = self._row(image_id)
            if row is not None:
                row["repo_digests"] = sorted({*row["repo_digests"], repo_digest(reference, str(digest))})
                durable.write_json(self._image_path(image_id), row)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, and with an image's last name the image.

        Raises `ImageInUse` while containers hold it: with `force` such an image only loses its names. An id with several names
        needs `force`.
        """
        with self._lock:
            image = self.get(name)
            by_name = self._by_reference(name, self._tags()) is not None and "@" not in name
            gone = [canonical(Reference.parse(name))] if by_name else list(image.repo_tags)
            rest = [tag for tag in image.repo_tags if tag not in gone]
            if len(gone) > 1 and not force:
                raise ImageInUse(f"image {image.id} has {len(gone)} names ({', '.join(gone[:5])}): remove them, or use force")
            owners = self.holders(image.id)
            if not rest and owners and not force:
                raise ImageInUse(
                    f"image {image.id} is used by {len(owners)} containers, first {owners[0]}: remove them first",
                    owners=owners[:20],
                )
            self._move_tags(dict.fromkeys(gone))
            if rest or owners:
                return Removed(tuple(gone), (), 0)
            durable.remove(self._image_path(image.id))
            return Removed(tuple(gone), (image.id,), self.gc())

    def prune(self, *, unused: bool = False) -> Removed:
        """Delete images without a name, or with `unused` all that nobody holds; then `gc`."""
        untagged: list[str] = []
        deleted: list[str] = []
        with self._lock:
            for image in self.list():
                if (image.repo_tags and not unused) or self.holders(image.id):
                    continue
                self._move_tags(dict.fromkeys(image.repo_tags))
                durable.remove(self._image_path(image.id))
                untagged += image.repo_tags
                deleted.append(image.id)
            return Removed(tuple(untagged), tuple(deleted), self.gc())

    def owners(self) -> tuple[str, ...]:
        """All who `hold` an image, sorted."""
        return tuple(sorted(os.listdir(os.path.join(self.root, "holds"))))

    def hold(self, image_id: str, owner: str) -> None:
        """`owner` (a container id) needs the image until `release`; one image an owner."""
        with self._lock:
            image = self.get(image_id)
            durable.write_json(os.path.join(self.root, "holds", check_container(owner)), image.id)

    def release(self, owner: str) -> None:
        """Absent is fine."""
        durable.remove(os.path.join(self.root, "holds", check_container(owner)))

    @contextmanager
    def pinned(self, names: Iterable[str]) -> Iterator[None]:
        """Keep blobs (digests) and layers (chain ids) from `gc` while an image is being put together of them."""
        names = list(names)
        with self._lock:
            self._pins.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._pins.subtract(names)
                self._pins += Counter()  # drops zeros

    @contextmanager
    def building(self) -> Iterator[None]:
        """Put `gc` off while blobs and layers appear whose digests nobody knows yet (load, import, commit)."""
        with self._lock:
            self._builders += 1
        try:
            yield
        finally:
            with self._lock:
                self._builders -= 1
                if self._builders == 0 and self._gc_wanted:
                    self.gc()

    def gc(self) -> int:
        """Delete layers and blobs that no image, container or work in progress needs. Returns the bytes of blobs freed.

        While something is `building` it only leaves word, and the last builder collects.
        """
        with self._lock:
            self._gc_wanted = self._builders > 0
            if self._gc_wanted:
                return 0
            rows = list(self._rows(self.root))
            wanted = {identifier for row in rows for identifier in chain_of([layer["diff_id"] for layer in row["layers"]])}
            self._collect_layers(wanted | set(self._pins))
            digests = set(self._pins)
            for name in os.listdir(self._all_drivers):
                for row in self._rows(os.path.join(self._all_drivers, name)):
                    digests |= {row["id"], row["manifest"], *row["indexes"], *(layer["digest"] for layer in row["layers"])}
            freed = 0
            for digest in list(self.content.digests()):
                if str(digest) not in digests:
                    size = self.content.size(digest)
                    freed += size if self.content.delete(digest) else 0
            return freed

    def _collect_layers(self, wanted: set[str]) -> None:
        doomed = {layer.chain_id for layer in self.driver.table.layers()} - wanted
        while doomed:
            parents = {layer.parent for layer in self.driver.table.layers()}
            leaves = doomed - parents
            for identifier in leaves:
                try:
                    self.driver.remove_layer(identifier)
                except LayerInUse:  # a container stands on it
                    continue
            if not leaves:
                return
            doomed -= leaves

    # --- files ---------------------------------------------------------------------------------------------------------------

    def _image_path(self, identifier: str) -> str:
        return os.path.join(self.root, "images", f"{Digest.parse(identifier).hex}.json")

    def _row(self, identifier: str) -> dict[str, Any] | None:
        row: dict[str, Any] | None = durable.read_json(self._image_path(identifier))
        return row

    @staticmethod
    def _rows(root: str) -> Iterator[dict[str, Any]]:
        directory = os.path.join(root, "images")
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            row = durable.read_json(os.path.join(directory, name))
            if row:
                yield row

    def _tags(self) -> dict[str, str]:
        return dict(durable.read_json(os.path.join(self.root, "tags.json")) or {})

    def _move_tags(self, changes: dict[str, str] | dict[str, None]) -> None:
        if changes:
            tags = {**self._tags(), **changes}
            durable.write_json(os.path.join(self.root, "tags.json"), {name: target for name, target in tags.items() if target})

    def _load(self, row: dict[str, Any], tags: dict[str, str]) -> Image:
        names = tuple(sorted(name for name, target in tags.items() if target == row["id"]))
        raw = self.content.read(Digest.parse(row["id"]))
        if config_id(raw) != row["id"]:
            raise ImageInvalid(f"the configuration of image {row['id']} is damaged on disk: remove the image and pull it again")
        return from_row(row, parse_config(raw), names)


def canonical(reference: Reference) -> str:
    """`registry/repository:tag`, the tag being "latest" when none is named: how tags are kept."""
    return replace(reference, tag=reference.tag or "latest", digest=None).familiar


def repo_digest(reference: Reference, digest: str) -> str:
    return f"{replace(reference, tag=None, digest=None).familiar}@{digest}"
