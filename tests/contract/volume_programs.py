"""Stand-ins for dmsetup and zfs at the seam agent.sys.programs: they keep what they are told, and give real trees for it.

A thin device is a sparse file on a loop device; a dataset is a directory. Both refuse what the real programs refuse: numbers in
use, devices that are open or unknown, datasets with clones.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.storage import trees, zfs
from agent.sys import devmapper, fs, mountapi, programs
from agent.sys.programs import ProgramFailed
from tests.contract import loopdisk

SECTOR = 512


class FakePool:
    """dmsetup and its thin pool `pool`. `free` percent of it is what status tells; `calls` are dmsetup's arguments."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.free = 90
        self.calls: list[tuple[str, ...]] = []
        self.busy: set[str] = set()
        self._suspended: set[str] = set()
        self._active: dict[str, str] = {}
        self._real = programs.run
        (home / "mapper").mkdir()
        (home / "thin").mkdir()
        for name in ("control", "pool"):
            (home / "mapper" / name).touch()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(devmapper, "DIRECTORY", str(self.home / "mapper"))
        patch.setattr(devmapper, "CONTROL", str(self.home / "mapper" / "control"))
        patch.setattr(programs, "run", self.run)

    def run(self, program: str, *arguments: str) -> str:
        if program != "dmsetup":
            return self._real(program, *arguments)
        self.calls.append(arguments)
        answer: str = getattr(self, f"_{arguments[0]}")(*arguments[1:]) or ""
        return answer

    @property
    def thin(self) -> set[int]:
        """Numbers of the thin devices that the pool holds."""
        return {int(path.name) for path in (self.home / "thin").iterdir()}

    @property
    def active(self) -> set[str]:
        return set(self._active)

    def close(self) -> None:
        for name in list(self._active):
            self._detach(name)

    def _create(self, name: str, _option: str, table: str) -> None:
        if name in self._active:
            raise ProgramFailed("dmsetup", 1, f"device-mapper: create ioctl on {name} failed: Device or resource busy")
        _start, sectors, _kind, _pool, number = table.split()
        file = self._file(int(number))
        os.truncate(file, int(sectors) * SECTOR)
        device = loopdisk.tool("losetup", "--find", "--show", str(file)).strip()
        self._active[name] = device
        (self.home / "mapper" / name).symlink_to(device)

    def _remove(self, *words: str) -> None:
        name = words[-1]
        if name in self.busy and "--deferred" not in words:
            raise ProgramFailed("dmsetup", 1, f"device-mapper: remove ioctl on {name} failed: Device or resource busy")
        if name not in self.busy:
            self._detach(name)

    def _detach(self, name: str) -> None:
        loopdisk.tool("losetup", "--detach", self._active.pop(name))
        (self.home / "mapper" / name).unlink()

    def _mknodes(self, _name: str) -> None:
        """Nodes are as the devices are already, as if by udev."""

    def _suspend(self, name: str) -> None:
        self._suspended.add(name)

    def _resume(self, name: str) -> None:
        self._suspended.remove(name)

    def _status(self, _pool: str) -> str:
        return f"0 2048000 thin-pool 1 10/4096 {1000 - 10 * self.free}/1000 - rw discard_passdown queue_if_no_space"

    def _message(self, _pool: str, _sector: str, text: str) -> None:
        verb, *numbers = text.split()
        first = int(numbers[0])
        if verb == "delete":
            self._delete(first)
            return
        if first in self.thin:
            raise ProgramFailed("dmsetup", 1, "device-mapper: message ioctl on pool failed: File exists")
        if verb == "create_thin":
            self._file(first, new=True).touch()
            return
        origin = self._file(int(numbers[1]))
        open_devices = [name for name in self._active if name.endswith(f"-{numbers[1]}")]
        assert set(open_devices) <= self._suspended, "a snapshot of a device that is in use and not suspended would be torn"
        _copy(origin, self._file(first, new=True))

    def _delete(self, number: int) -> None:
        if any(name.endswith(f"-{number}") for name in self._active):
            raise ProgramFailed("dmsetup", 1, "device-mapper: message ioctl on pool failed: Device or resource busy")
        self._file(number).unlink()

    def _file(self, number: int, *, new: bool = False) -> Path:
        path = self.home / "thin" / str(number)
        if not new and not path.exists():
            raise ProgramFailed("dmsetup", 1, "device-mapper: message ioctl on pool failed: No data available")
        return path


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        fs.copy_data(old.fileno(), new.fileno(), os.fstat(old.fileno()).st_size)
        new.truncate(os.fstat(old.fileno()).st_size)


class FakeZfs:
    """The zfs program with one pool `tank`; `properties` by dataset."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.properties: dict[str, dict[str, str]] = {"tank": {}}
        self._origin: dict[str, str] = {}
        self._doomed: set[str] = set()
        self._snapshots: set[str] = set()
        self._real_run = programs.run
        self._real_mount = mountapi.new_filesystem

    def install(self, patch: pytest.MonkeyPatch) -> None:
        control = self.home / "control"
        control.touch()
        patch.setattr(zfs, "CONTROL", str(control))
        patch.setattr(programs, "run", self.run)
        patch.setattr(mountapi, "new_filesystem", self.mount)

    @property
    def datasets(self) -> set[str]:
        return set(self.properties) - {"tank"}

    @property
    def snapshots(self) -> set[str]:
        return set(self._snapshots)

    def mount(self, fstype: bytes, params: list[tuple[int, bytes, bytes | None, int]], attributes: int) -> int:
        if fstype != b"zfs":
            return self._real_mount(fstype, params, attributes)
        source = next(value.decode() for _, key, value, _ in params if key == b"source" and value)
        assert self.properties[source]["mountpoint"] == "legacy", "only a legacy dataset can be mounted by hand"
        with_attributes = mountapi.clone_tree(mountapi.AT_FDCWD, bytes(self._directory(source)))
        if attributes:
            mountapi.set_attributes(with_attributes, attributes)
        return with_attributes

    def run(self, program: str, *arguments: str) -> str:
        if program != "zfs":
            return self._real_run(program, *arguments)
        options = {arguments[i + 1].partition("=")[0]: arguments[i + 1] for i, word in enumerate(arguments) if word == "-o"}
        names = [word for i, word in enumerate(arguments[1:], 1) if word[0] != "-" and arguments[i - 1] not in ("-o", "-t")]
        answer: str = getattr(self, f"_{arguments[0]}")(options, arguments, *names) or ""
        return answer

    def _list(self, _options: dict[str, str], _words: tuple[str, ...], name: str) -> str:
        if name not in self.properties:
            raise ProgramFailed("zfs", 1, f"cannot open '{name}': dataset does not exist")
        return f"{name}\n"

    def _create(self, options: dict[str, str], _words: tuple[str, ...], name: str) -> None:
        self._add(name, options)
        self._directory(name).mkdir()
        self._directory(name).chmod(0o755)

    def _snapshot(self, _options: dict[str, str], _words: tuple[str, ...], name: str) -> None:
        assert name.partition("@")[0] in self.properties
        self._snapshots.add(name)

    def _clone(self, options: dict[str, str], _words: tuple[str, ...], snapshot: str, name: str) -> None:
        assert snapshot in self._snapshots
        self._add(name, options)
        self._origin[name] = snapshot
        trees.copy(str(self._directory(snapshot.partition("@")[0])), str(self._directory(name)))

    def _destroy(self, _options: dict[str, str], words: tuple[str, ...], name: str) -> None:
        if "@" in name:
            assert "-d" in words
            self._doomed.add(name)
            self._drop_snapshots()
            return
        if name not in self.properties:
            raise ProgramFailed("zfs", 1, f"cannot open '{name}': dataset does not exist")
        if any(snapshot.startswith(f"{name}@") for snapshot in self._origin.values()):
            raise ProgramFailed("zfs", 1, f"cannot destroy '{name}': filesystem has dependent clones")
        del self.properties[name]
        self._origin.pop(name, None)
        self._drop_snapshots()
        trees.remove_path(str(self._directory(name)))

    def _drop_snapshots(self) -> None:
        gone = {name for name in self._doomed if name not in self._origin.values()}
        self._doomed -= gone
        self._snapshots -= gone

    def _add(self, name: str, options: dict[str, str]) -> None:
        assert name not in self.properties
        self.properties[name] = {key: text.partition("=")[2] for key, text in options.items()}

    def _directory(self, name: str) -> Path:
        return self.home / name.replace("/", "_")
