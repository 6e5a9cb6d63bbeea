"""What every directory-keeping driver does alike: crash-safe creation by rename, rows written last, leftovers swept at start."""

from __future__ import annotations

import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, ClassVar

from agent.storage import durable, trees
from agent.storage.driver import ApplyResult
from agent.storage.errors import DigestMismatch, LayerInUse, LayerUnknown
from agent.storage.extract import Extracted, extract
from agent.storage.limits import Limits, Rights
from agent.storage.table import Layer, LayerTable, chain_id, check_container, hex_of
from agent.sys import fs
from agent.sys.mount import Mount


class _Turn:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class DirectoryDriver(ABC):
    """A driver whose layers are `<data>/<name>/layers/<hex>/` and whose containers are `<data>/<name>/containers/<id>/`."""

    name: ClassVar[str]
    merged: ClassVar[bool]

    def __init__(self, data_root: str, *, limits: Limits | None = None, rights: Rights | None = None) -> None:
        self.root = os.path.join(data_root, self.name)
        self.limits = limits or Limits()
        self.rights = rights or Rights()
        for part in ("layers", "containers", "tmp"):
            os.makedirs(os.path.join(self.root, part), mode=0o700, exist_ok=True)
        self.table = LayerTable(os.path.join(data_root, "image", self.name))
        self._guard = threading.Lock()
        self._busy: dict[str, _Turn] = {}
        self._sweep()

    # --- what a driver decides -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _layer_directory(self, place: str, parent: str | None) -> str:
        """Make the directory under `place` that the archive is unpacked into."""

    @abstractmethod
    def _finish_layer(self, directory: str, parent: str | None, extracted: Extracted) -> None:
        """What the helper process had no right or view to do."""

    @abstractmethod
    def _make_container(self, place: str, chain: list[str]) -> None:
        """Fill the new directory `place` for a container."""

    @abstractmethod
    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]: ...

    # --- layers --------------------------------------------------------------------------------------------------------------

    def layer_path(self, identifier: str) -> str:
        """Where a layer's files are."""
        return os.path.join(self.root, "layers", hex_of(identifier), "diff")

    def apply(self, chain: str | None, parent: str | None, source: IO[bytes], *, compressed: str | None = None) -> ApplyResult:
        if parent is not None:
            self.table.require(parent)
        if chain is None:
            return self._apply(None, parent, source, compressed)
        with self._exclusive(chain):
            known = self.table.get(chain)
            if known is not None:
                return ApplyResult(known.chain_id, known.diff_id, known.size, known.tar_size)
            return self._apply(chain, parent, source, compressed)

    def _apply(self, chain: str | None, parent: str | None, source: IO[bytes], compressed: str | None) -> ApplyResult:
        with self._scratch() as place:
            directory = self._layer_directory(place, parent)
            extracted = extract(
                source, directory, limits=self.limits, rights=self.rights, merged=self.merged, compressed=compressed
            )
            found = chain_id(parent, extracted.diff_id)
            if chain is not None and found != chain:
                raise DigestMismatch(
                    f"the unpacked layer has diff_id {extracted.diff_id}, which the image's configuration does not name",
                    diff_id=extracted.diff_id,
                )
            self._finish_layer(directory, parent, extracted)
            layer = Layer(found, parent, extracted.diff_id, extracted.size, extracted.tar_size)
            if chain is not None:
                self._commit_layer(place, layer)
            else:
                with self._exclusive(found):
                    if self.table.get(found) is None:
                        self._commit_layer(place, layer)
        return ApplyResult(layer.chain_id, layer.diff_id, layer.size, layer.tar_size)

    def _commit_layer(self, place: str, layer: Layer) -> None:
        _sync(place)
        self._move_in(place, os.path.join(self.root, "layers", hex_of(layer.chain_id)))
        self.table.put(layer)

    def remove_layer(self, identifier: str) -> None:
        with self._exclusive(identifier):
            users = self.table.used_by(identifier)
            if users:
                raise LayerInUse(
                    f"layer {identifier} is needed by {users[0]}" + (" and others" if users[1:] else ""), users=users[:20]
                )
            self.table.delete(identifier)
            self._discard(os.path.join(self.root, "layers", hex_of(identifier)))

    # --- containers ----------------------------------------------------------------------------------------------------------

    def container_path(self, container_id: str) -> str:
        return os.path.join(self.root, "containers", check_container(container_id))

    def prepare(self, container_id: str, chain: list[str]) -> list[Mount]:
        with self._exclusive(f"container {container_id}"):
            known = self.table.container(container_id)
            if known is not None and known != chain:
                raise LayerInUse(f"container {container_id} already has a file system on other layers: remove it first")
            if known is None:
                for identifier in chain:
                    self.table.require(identifier)
                with self._scratch() as place:
                    self._make_container(place, chain)
                    self._move_in(place, self.container_path(container_id))
                self.table.put_container(container_id, chain)
        return self._container_mounts(container_id, chain)

    def remove_container(self, container_id: str) -> None:
        with self._exclusive(f"container {container_id}"):
            self.table.delete_container(container_id)
            self._discard(self.container_path(container_id))

    def usage(self, container_id: str) -> int:
        self.chain_of(container_id)
        return trees.disk_usage(self.container_path(container_id))

    def chain_of(self, container_id: str) -> list[str]:
        """The layers a container stands on, topmost first; raises `LayerUnknown`."""
        chain = self.table.container(container_id)
        if chain is None:
            raise LayerUnknown(f"container {container_id} has no file system on this node", container=container_id)
        return chain

    # --- disk ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        """One thread at a time for one layer or container; others go on."""
        with self._guard:
            turn = self._busy.setdefault(key, _Turn())
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._guard:
                turn.users -= 1
                if turn.users == 0:
                    del self._busy[key]

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        place = os.path.join(self.root, "tmp", uuid.uuid4().hex)
        os.mkdir(place, 0o700)
        try:
            yield place
        finally:
            self._erase(place)

    def _move_in(self, place: str, target: str) -> None:
        try:
            fs.rename(place, target)
        except FileExistsError:
            self._discard(target)  # it had no row: left by a crash between rename and row
            fs.rename(place, target)
        durable.sync_directory(os.path.dirname(target))

    def _discard(self, path: str) -> None:
        """Out of sight by one rename, then gone: a crash between leaves only something to sweep."""
        grave = os.path.join(self.root, "tmp", uuid.uuid4().hex)
        try:
            os.rename(path, grave)
        except FileNotFoundError:
            return
        self._erase(grave)

    @staticmethod
    def _erase(path: str) -> None:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            trees.remove(os.fsencode(os.path.basename(path)), directory)
        finally:
            os.close(directory)

    def _sweep(self) -> None:
        for name in os.listdir(os.path.join(self.root, "tmp")):
            self._erase(os.path.join(self.root, "tmp", name))
        for name in os.listdir(os.path.join(self.root, "layers")):
            if self.table.get(f"sha256:{name}") is None:
                self._discard(os.path.join(self.root, "layers", name))
        for name in os.listdir(os.path.join(self.root, "containers")):
            if self.table.container(name) is None:
                self._discard(os.path.join(self.root, "containers", name))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fs.syncfs(fd)
    finally:
        os.close(fd)
