"""A thin pool: where it comes from, and the thin devices in it.

A device's number is on disk before the device is, so whatever a crash leaves has an owner that can be swept.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass
from typing import Final

from agent.storage import durable
from agent.storage.devicemapper import lvm
from agent.storage.devicemapper.settings import SECTOR, Settings
from agent.storage.errors import DriverUnsupported, NoSpace
from agent.sys import devmapper, programs
from agent.sys.programs import ProgramFailed

_MAX_NUMBER: Final = 1 << 24  # thin device ids have 24 bits


@dataclass(frozen=True, slots=True)
class Thin:
    """One thin device: its number in the pool and its length."""

    number: int
    sectors: int


class NumberTaken(Exception):
    """The pool has a device of this number, which is not ours."""


class ThinPool:
    """`directory` keeps the counter, what waits to be deleted, and the files of a loop pool; `prefix` begins device names."""

    def __init__(self, directory: str, prefix: str, settings: Settings) -> None:
        self._directory = directory
        self._prefix = prefix
        self._settings = settings
        self._lock = threading.RLock()
        self._users: dict[int, int] = {}
        os.makedirs(os.path.join(directory, "deferred"), mode=0o700, exist_ok=True)
        self.name = self._found()
        self._delete_deferred()

    def _found(self) -> str:
        settings = self._settings
        try:
            if settings.lvm_device:
                return lvm.ensure(settings)
            if settings.loop_data:
                return self._loop_pool()
        except ProgramFailed as error:
            raise DriverUnsupported(f"the thin pool cannot be made: {error}") from error
        if not settings.pool:
            raise DriverUnsupported(
                "devicemapper needs a thin pool: name one with dm.thinpooldev, or a disk to make one on with"
                " dm.directlvm_device, or ask for one in sparse files, for tests only, with dm.loopdatasize"
            )
        if not devmapper.exists(settings.pool):
            raise DriverUnsupported(
                f"there is no device {devmapper.path(settings.pool)}: make the thin pool, or correct dm.thinpooldev"
            )
        return settings.pool

    def _loop_pool(self) -> str:
        name = f"{self._prefix}-pool"
        if devmapper.exists(name):
            return name
        devices = {}
        for part, size in (("data", self._settings.loop_data), ("metadata", self._settings.loop_metadata)):
            path = os.path.join(self._directory, part)
            with open(path, "ab") as file:
                if file.tell() < size:
                    file.truncate(size)
            devices[part] = programs.run("losetup", "--find", "--show", path).strip()
        sectors = os.path.getsize(os.path.join(self._directory, "data")) // SECTOR
        block = self._settings.block // SECTOR
        table = f"0 {sectors} thin-pool {devices['metadata']} {devices['data']} {block} 32768 1 skip_block_zeroing"
        devmapper.create(name, table)
        return name

    # --- numbers -------------------------------------------------------------------------------------------------------------

    def reserve(self) -> int:
        """A number that we have not used. Another user of the pool may have: making the device then raises `NumberTaken`."""
        with self._lock:
            path = os.path.join(self._directory, "next.json")
            number = int(durable.read_json(path) or 1 + secrets.randbelow(_MAX_NUMBER // 2))
            if number >= _MAX_NUMBER:
                raise NoSpace("the thin pool has used up its 16,777,216 device numbers: make a new pool")
            durable.write_json(path, number + 1)
            return number

    # --- devices -------------------------------------------------------------------------------------------------------------

    def create(self, thin: Thin) -> None:
        self._make(f"create_thin {thin.number}")

    def snapshot(self, thin: Thin, origin: Thin) -> None:
        """`thin` begins as what `origin` holds now."""
        with self._lock:
            self.require_space()
            active = devmapper.exists(self._device(origin))
            if active:
                devmapper.suspend(self._device(origin))
            try:
                self._make(f"create_snap {thin.number} {origin.number}")
            finally:
                if active:
                    devmapper.resume(self._device(origin))

    def require_space(self) -> None:
        """Raises `NoSpace` while the pool has less free than dm.min_free_space: a full pool breaks every file system on it."""
        words = devmapper.status(self.name)
        used, total = (int(number) for number in words[3].split("/"))
        if (total - used) * 100 < total * self._settings.min_free_percent:
            raise NoSpace(
                f"the thin pool {self.name} has less than {self._settings.min_free_percent} % free: remove images, or extend it"
            )

    def activate(self, thin: Thin) -> str:
        """The path of its block device, which stays until as many `release` calls."""
        with self._lock:
            name = self._device(thin)
            if not devmapper.exists(name):
                devmapper.create(name, f"0 {thin.sectors} thin {devmapper.path(self.name)} {thin.number}")
            self._users[thin.number] = self._users.get(thin.number, 0) + 1
            return devmapper.path(name)

    def release(self, thin: Thin) -> None:
        with self._lock:
            left = self._users.pop(thin.number, 1) - 1
            if left > 0:
                self._users[thin.number] = left
            elif devmapper.exists(self._device(thin)):
                devmapper.remove(self._device(thin), deferred=self._settings.deferred_removal)

    def delete(self, thin: Thin) -> None:
        """Give its blocks back; with deferred deletion a device that is still open goes later."""
        with self._lock:
            self._users.pop(thin.number, None)
            name = self._device(thin)
            if devmapper.exists(name):
                if self._settings.discard:
                    programs.run("blkdiscard", devmapper.path(name))
                devmapper.remove(name, deferred=self._settings.deferred_removal)
            if not self._deleted(thin.number):
                durable.write_json(self._deferred(thin.number), thin.number)
            self._delete_deferred()

    def _delete_deferred(self) -> None:
        for name in os.listdir(os.path.join(self._directory, "deferred")):
            number = int(name.removesuffix(".json"))
            if self._deleted(number):
                durable.remove(self._deferred(number))

    def _deleted(self, number: int) -> bool:
        """False when it is still open and may be deleted later."""
        try:
            self._message(f"delete {number}")
        except ProgramFailed as error:
            if "No data available" in error.reason:  # ENODATA: never made, or gone already
                return True
            if self._settings.deferred_deletion and "busy" in error.reason:
                return False
            raise
        return True

    def _deferred(self, number: int) -> str:
        return os.path.join(self._directory, "deferred", f"{number}.json")

    def _device(self, thin: Thin) -> str:
        return f"{self._prefix}-{thin.number}"

    def _make(self, text: str) -> None:
        try:
            self._message(text)
        except ProgramFailed as error:
            raise NumberTaken if "File exists" in error.reason else error from error

    def _message(self, text: str) -> None:
        devmapper.message(self.name, text)
