"""The layer table of one driver: which layers and container file systems are whole. `<data>/image/<driver>/{layers,containers}/`.

A directory without a row here is the rest of something interrupted; a row is written last and removed first.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass

from agent.storage import durable
from agent.storage.errors import LayerInvalid, LayerUnknown


@dataclass(frozen=True, slots=True)
class Layer:
    """One applied layer. Digests as "sha256:hex"; `parent` is a chain id or None; sizes in bytes."""

    chain_id: str
    parent: str | None
    diff_id: str
    size: int
    tar_size: int


def chain_id(parent: str | None, diff_id: str) -> str:
    """image-spec config.md, "Layer ChainID"."""
    if parent is None:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def hex_of(identifier: str) -> str:
    """The file name for a chain id; refuses anything that is no sha256 digest, so that no name can leave its directory."""
    algorithm, _, text = identifier.partition(":")
    if algorithm != "sha256" or len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise LayerInvalid(f"{identifier[:100]!r} is not a chain id: sha256: and 64 hex digits", rule="chain_id")
    return text


class LayerTable:
    def __init__(self, root: str) -> None:
        self._layers = os.path.join(root, "layers")
        self._containers = os.path.join(root, "containers")
        for path in (self._layers, self._containers):
            os.makedirs(path, mode=0o700, exist_ok=True)
            durable.sweep(path)

    def get(self, identifier: str) -> Layer | None:
        row = durable.read_json(self._layer_path(identifier))
        return Layer(**row) if row else None

    def require(self, identifier: str) -> Layer:
        layer = self.get(identifier)
        if layer is None:
            raise LayerUnknown(f"layer {identifier} is not on this node: pull the image again", layer=identifier)
        return layer

    def put(self, layer: Layer) -> None:
        durable.write_json(self._layer_path(layer.chain_id), asdict(layer))

    def delete(self, identifier: str) -> bool:
        return durable.remove(self._layer_path(identifier))

    def layers(self) -> list[Layer]:
        rows = (durable.read_json(os.path.join(self._layers, name)) for name in sorted(os.listdir(self._layers)))
        return [Layer(**row) for row in rows if row]

    def chain(self, top: str | None) -> list[str]:
        """The chain ids from `top` down to the base."""
        found: list[str] = []
        while top is not None:
            found.append(top)
            top = self.require(top).parent
        return found

    def container(self, name: str) -> list[str] | None:
        """The chain a container stands on, topmost first; None when it has no file system here."""
        row = durable.read_json(self._container_path(name))
        return list(row["chain"]) if row else None

    def put_container(self, name: str, chain: list[str]) -> None:
        durable.write_json(self._container_path(name), {"chain": chain})

    def delete_container(self, name: str) -> bool:
        return durable.remove(self._container_path(name))

    def containers(self) -> dict[str, list[str]]:
        names = [name.removesuffix(".json") for name in sorted(os.listdir(self._containers))]
        return {name: chain for name in names if (chain := self.container(name)) is not None}

    def used_by(self, identifier: str) -> list[str]:
        """What would break without this layer: "layer …" and "container …"."""
        users = [f"layer {layer.chain_id}" for layer in self.layers() if layer.parent == identifier]
        return users + [f"container {name}" for name, chain in self.containers().items() if identifier in chain]

    def _layer_path(self, identifier: str) -> str:
        return os.path.join(self._layers, f"{hex_of(identifier)}.json")

    def _container_path(self, name: str) -> str:
        return os.path.join(self._containers, f"{check_container(name)}.json")


def check_container(name: str) -> str:
    """A container id becomes a directory name: letters, digits, '_', '-', '.', not beginning with a dot, at most 128."""
    if (
        not name
        or len(name) > 128
        or name[0] == "."
        or not all(char.isascii() and (char.isalnum() or char in "_-.") for char in name)
    ):
        raise LayerInvalid(f"container id {name[:140]!r} cannot be a directory name", rule="container_id")
    return name
