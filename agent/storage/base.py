"""What every directory-keeping driver does alike: crash-safe creation by rename, rows written last, leftovers swept at start."""

from __future__ import annotations

import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import IO, ClassVar

from agent.storage import devices, durable, trees
from agent.storage.driver import ApplyResult, Change
from agent.storage.errors import DigestMismatch, DriverFailed, LayerInUse, LayerUnknown, SizeUnsupported, disk_full_explained
from agent.storage.extract import Extracted, extract
from agent.storage.limits import Limits, Rights
from agent.storage.table import Layer, LayerTable, chain_id, check_container, hex_of
from agent.sys import fs
from agent.sys.mount import Mount
from agent.sys.programs import ProgramFailed


class _Turn:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class DirectoryDriver(ABC):
    """A driver whose layers are `<data>/<name>/layers/<hex>/` and whose containers are `<data>/<name>/containers/<id>/`."""

    name: ClassVar[str]
    merged: ClassVar[bool]
    OPTIONS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        data_root: str,
        *,
        limits: Limits | None = None,
        rights: Rights | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.root = os.path.join(data_root, self.name)
        self.limits = limits or Limits()
        self.rights = rights or Rights()
        self._configure(options or {})
        for part in ("layers", "containers", "tmp"):
            os.makedirs(os.path.join(self.root, part), mode=0o700, exist_ok=True)
        self.table = LayerTable(os.path.join(data_root, "image", self.name))
        self._guard = threading.Lock()
        self._busy: dict[str, _Turn] = {}
        self._sweep()

    # --- what a driver decides -----------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def probe(cls, data_root: str, options: Mapping[str, str]) -> None:
        """Try out what the driver needs of this node, leaving nothing behind; raises `DriverUnsupported` with the reason."""

    def _configure(self, options: Mapping[str, str]) -> None:  # noqa: B027  # most drivers have no options
        """Read the options, whose names are in OPTIONS. Raises `OptionInvalid`."""

    @abstractmethod
    def _filling(self, place: str, parent: str | None) -> AbstractContextManager[str]:
        """Make the directory in or for `place` that an archive is unpacked into; it is durable when the block ends."""

    @abstractmethod
    def _finish_layer(self, directory: str, parent: str | None, extracted: Extracted) -> None:
        """What the helper process had no right or view to do."""

    def _size(self, asked: int) -> int:
        """The size limit of a new container for which `asked` bytes are wanted, 0 = none; raises `SizeUnsupported`."""
        if asked:
            raise SizeUnsupported(
                f"graph driver {self.name} cannot limit a container's size: leave the storage size out,"
                " or run the node with btrfs, zfs or devicemapper"
            )
        return 0

    @abstractmethod
    def _make_container(self, place: str, chain: list[str], size: int) -> None:
        """Fill the new directory `place` for a container of at most `size` bytes, 0 = no limit."""

    @abstractmethod
    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]: ...

    @abstractmethod
    def view(self, chain: list[str]) -> list[Mount]: ...

    @abstractmethod
    def changes(self, container_id: str) -> list[Change]: ...

    @abstractmethod
    def diff(self, container_id: str) -> Iterator[bytes]: ...

    @abstractmethod
    def export_layer(self, chain_id: str) -> Iterator[bytes]: ...

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
        with self._explained(), self._scratch() as place:
            with self._filling(place, parent) as directory:
                extracted = extract(
                    source, directory, limits=self.limits, rights=self.rights, merged=self.merged, compressed=compressed
                )
                found = chain_id(parent, extracted.diff_id)
                if chain is not None and found != chain:
                    raise DigestMismatch(
                        f"the unpacked layer has diff_id {extracted.diff_id}, which the image's configuration does not name",
                        diff_id=extracted.diff_id,
                    )
                devices.make(directory, extracted.devices)
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
        with self._explained(), self._exclusive(identifier):
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

    def prepare(self, container_id: str, chain: list[str], *, size: int = 0) -> list[Mount]:
        with self._explained(), self._exclusive(f"container {container_id}"):
            known = self.table.container(container_id)
            if known is not None and known != chain:
                raise LayerInUse(f"container {container_id} already has a file system on other layers: remove it first")
            if known is None:
                limit = self._size(size)
                for identifier in chain:
                    self.table.require(identifier)
                with self._scratch() as place:
                    self._make_container(place, chain, limit)
                    self._move_in(place, self.container_path(container_id))
                self.table.put_container(container_id, chain)
        return self._container_mounts(container_id, chain)

    def remove_container(self, container_id: str) -> None:
        with self._explained(), self._exclusive(f"container {container_id}"):
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
    def _explained(self) -> Iterator[None]:
        """Errors of the disk and of programs, as sentences with a code."""
        try:
            with disk_full_explained():
                yield
        except ProgramFailed as error:
            raise DriverFailed(f"graph driver {self.name}: {error}") from error

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

    def _erase(self, path: str) -> None:
        """Remove what a driver made at `path`: a layer's, a container's or a scratch directory."""
        trees.remove_path(path)

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
