"""The devicemapper driver: a thin device with a file system of its own per layer and container, each a snapshot of its parent's.

`device.json` in a layer's or container's directory names its thin device. A container's device stays active from `prepare` to
`remove_container`, a layer's only while somebody looks into it. Nothing is attached anywhere: the runtime mounts the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from agent.storage import detached, durable
from agent.storage.devicemapper import settings as options_of
from agent.storage.devicemapper.pool import NumberTaken, Thin, ThinPool
from agent.storage.devicemapper.settings import SECTOR, Settings
from agent.storage.errors import DriverUnsupported, SizeUnsupported
from agent.storage.limits import Limits, Rights
from agent.storage.snapshots import CONTAINER, SnapshotDriver
from agent.sys import devmapper, programs, xfs
from agent.sys.mount import Mount
from agent.sys.programs import ProgramFailed

_DEVICE: Final = "device.json"
_BASE: Final = "base"


class DeviceMapper(SnapshotDriver):
    name: ClassVar[str] = "devicemapper"
    OPTIONS: ClassVar[frozenset[str]] = options_of.NAMES

    @classmethod
    def probe(cls, data_root: str, options: Mapping[str, str]) -> None:
        """The kernel's device mapper and the programs must be there; the pool is looked for when the driver opens."""
        if not devmapper.available():
            raise DriverUnsupported(
                f"devicemapper does not work on this node: {devmapper.CONTROL} is absent, its kernel has no device mapper"
            )
        kind = options_of.read(options).fs
        for program in ("dmsetup", f"mkfs.{kind}"):
            if programs.find(program) is None:
                raise DriverUnsupported(f"devicemapper needs the program {program}: install its package")

    def __init__(
        self,
        data_root: str,
        *,
        limits: Limits | None = None,
        rights: Rights | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = Settings()
        os.makedirs(os.path.join(data_root, self.name), mode=0o700, exist_ok=True)
        self._where = os.stat(os.path.join(data_root, self.name))
        super().__init__(data_root, limits=limits, rights=rights, options=options)
        for container_id in self.table.containers():  # a reboot made them inactive
            self._activate(self.container_path(container_id))

    def _configure(self, options: Mapping[str, str]) -> None:
        self._settings = options_of.read(options)
        prefix = f"wharfinger-{os.major(self._where.st_dev)}:{os.minor(self._where.st_dev)}-{self._where.st_ino}"
        self._pool = ThinPool(os.path.join(self.root, "pool"), prefix, self._settings)

    def _size(self, asked: int) -> int:
        if 0 < asked < self._settings.base:
            raise SizeUnsupported(
                f"storage size {asked} is below dm.basesize of this node, {self._settings.base} bytes: ask for that or more"
            )
        return asked

    # --- trees ---------------------------------------------------------------------------------------------------------------

    def _start_tree(self, home: str, name: str, parent: str | None, size: int) -> None:
        origin = _thin(parent or self._base())
        thin = self._new(home, max(origin.sectors, size // SECTOR), lambda thin: self._pool.snapshot(thin, origin))
        if thin.sectors > origin.sectors:
            self._grow(thin)
        if name == CONTAINER:
            self._pool.activate(thin)

    def _grow(self, thin: Thin) -> None:
        """Let the file system, which is its parent's, fill its larger device. xfs grows mounted only, ext4 better unmounted."""
        if self._settings.fs == "xfs":
            with self._mounted(thin) as root:
                xfs.grow(root, thin.sectors * SECTOR)
            return
        device = self._pool.activate(thin)
        try:
            programs.run("resize2fs", "-f", device)
        finally:
            self._pool.release(thin)

    def _new(self, home: str, sectors: int, make: Callable[[Thin], None]) -> Thin:
        """Make a thin device whose number is in `home` before it exists, and never there when it is somebody else's."""
        while True:
            thin = Thin(self._pool.reserve(), sectors)
            _remember(home, thin)
            try:
                make(thin)
                return thin
            except NumberTaken:
                durable.remove(os.path.join(home, _DEVICE))

    def _base(self) -> str:
        """The home of the empty file system that all others descend from; made once."""
        home = os.path.join(self.root, _BASE)
        with self._exclusive("base"):
            if not os.path.isdir(home):
                with self._scratch() as place:
                    self._make_base(place)
                    self._move_in(place, home)
        return home

    def _make_base(self, place: str) -> None:
        thin = self._new(place, self._settings.base // SECTOR, self._pool.create)
        kind = self._settings.fs
        quiet = ["-q", "-f"] if kind == "xfs" else ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"]
        device = self._pool.activate(thin)
        try:
            programs.run(f"mkfs.{kind}", *quiet, *self._settings.mkfs, device)
        except ProgramFailed as error:
            raise DriverUnsupported(f"the base file system cannot be made: {error}") from error
        finally:
            self._pool.release(thin)
        with self._mounted(thin) as root:
            os.fchmod(root, 0o755)
            if kind == "ext4":
                os.rmdir("lost+found", dir_fd=root)  # no image has it; fsck makes it again when it needs one

    @contextmanager
    def _open(self, home: str, name: str) -> Iterator[str]:
        with self._mounted(_thin(home)) as root:
            yield f"/proc/self/fd/{root}/."

    @contextmanager
    def _mounted(self, thin: Thin) -> Iterator[int]:
        device = self._pool.activate(thin)
        try:
            with detached.opened(self._settings.fs, device, self._words()) as root:
                yield root
        finally:
            self._pool.release(thin)

    def _words(self) -> tuple[str, ...]:
        # snapshots carry their origin's uuid, of which xfs allows one
        return (("nouuid",) if self._settings.fs == "xfs" else ()) + self._settings.mount

    def _mount(self, home: str, name: str, *, read_only: bool) -> Mount:
        device = self._activate(home)
        return Mount(self._settings.fs, device, "", (*self._words(), "ro" if read_only else "rw"))

    def _activate(self, home: str) -> str:
        """What is handed out stays active until its home is erased."""
        return self._pool.activate(_thin(home))

    def _erase(self, path: str) -> None:
        thin = _read(path)
        if thin is not None:
            self._pool.delete(thin)
        super()._erase(path)


def _remember(home: str, thin: Thin) -> None:
    durable.write_json(os.path.join(home, _DEVICE), {"number": thin.number, "sectors": thin.sectors})


def _read(home: str) -> Thin | None:
    try:
        row = durable.read_json(os.path.join(home, _DEVICE))
    except NotADirectoryError:
        return None
    return Thin(int(row["number"]), int(row["sectors"])) if row else None


def _thin(home: str) -> Thin:
    found = _read(home)
    if found is None:
        raise FileNotFoundError(2, "names no thin device", os.path.join(home, _DEVICE))
    return found
