"""The zfs driver: a dataset per layer and container, each a clone of its parent's. Needs the program zfs, which OpenZFS brings.

`dataset.json` in a layer's or container's directory names its dataset. Datasets have mountpoint=legacy: the runtime mounts them,
and this driver looks into them through detached mounts. A container's size limit is its dataset's quota, which counts what it
does not share with the image.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from agent.storage import detached, durable
from agent.storage.errors import DriverUnsupported, OptionInvalid
from agent.storage.snapshots import SnapshotDriver
from agent.sys import programs
from agent.sys.mount import Mount
from agent.sys.programs import ProgramFailed

_FSNAME: Final = "zfs.fsname"
_DATASET: Final = "dataset.json"
CONTROL = "/dev/zfs"


class Zfs(SnapshotDriver):
    name: ClassVar[str] = "zfs"
    OPTIONS: ClassVar[frozenset[str]] = frozenset({_FSNAME})

    @classmethod
    def probe(cls, data_root: str, options: Mapping[str, str]) -> None:
        """zfs' program and kernel module must be there, and a dataset to put ours in."""
        if not os.path.exists(CONTROL):
            raise DriverUnsupported(f"zfs does not work on this node: {CONTROL} is absent, the kernel module is not loaded")
        _parent_dataset(data_root, options)

    def __init__(self, data_root: str, **more: object) -> None:
        self._data_root = data_root
        super().__init__(data_root, **more)  # type: ignore[arg-type]  # the base's own keywords, passed through

    def _configure(self, options: Mapping[str, str]) -> None:
        self._within = _parent_dataset(self._data_root, options)

    def _size(self, asked: int) -> int:
        return asked

    # --- trees ---------------------------------------------------------------------------------------------------------------

    def _start_tree(self, home: str, name: str, parent: str | None, size: int) -> None:
        dataset = f"{self._within}/{uuid.uuid4().hex}"
        durable.write_json(os.path.join(home, _DATASET), dataset)
        properties = ["-o", "mountpoint=legacy", *(["-o", f"quota={size}"] if size else [])]
        if parent is None:
            _zfs("create", *properties, dataset)
            return
        snapshot = f"{_dataset(parent)}@{uuid.uuid4().hex}"
        _zfs("snapshot", snapshot)
        try:
            _zfs("clone", *properties, snapshot, dataset)
        finally:
            _zfs("destroy", "-d", snapshot)  # goes with the clone

    @contextmanager
    def _open(self, home: str, name: str) -> Iterator[str]:
        with detached.opened("zfs", _dataset(home)) as root:
            yield f"/proc/self/fd/{root}/."

    def _mount(self, home: str, name: str, *, read_only: bool) -> Mount:
        return Mount("zfs", _dataset(home), "", ("ro" if read_only else "rw",))

    def _erase(self, path: str) -> None:
        dataset = _read(path)
        if dataset is not None:
            try:
                _zfs("destroy", "-r", dataset)
            except ProgramFailed as error:
                if "does not exist" not in error.reason:
                    raise
        super()._erase(path)


def _parent_dataset(data_root: str, options: Mapping[str, str]) -> str:
    """Where our datasets go: zfs.fsname, else the one that the data root lies on."""
    wanted = options.get(_FSNAME, "")
    if "@" in wanted or wanted.startswith(("/", "-")):
        raise OptionInvalid(f"{_FSNAME}={wanted}: name a dataset, such as tank/wharfinger", option=_FSNAME)
    try:
        found = _zfs("list", "-H", "-t", "filesystem", "-o", "name", wanted or data_root).strip()
    except ProgramFailed as error:
        advice = f"correct {_FSNAME}" if wanted else f"put the data root on zfs, or name a dataset with {_FSNAME}"
        raise DriverUnsupported(f"zfs does not work on {data_root}: {error}; {advice}") from error
    return found


def _read(home: str) -> str | None:
    try:
        row = durable.read_json(os.path.join(home, _DATASET))
    except NotADirectoryError:
        return None
    return str(row) if row else None


def _dataset(home: str) -> str:
    found = _read(home)
    if found is None:
        raise FileNotFoundError(2, "names no dataset", os.path.join(home, _DATASET))
    return found


def _zfs(*arguments: str) -> str:
    return programs.run("zfs", *arguments)
