"""Device nodes in layers: made by the agent where the helper left fifos, and nowhere else."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.storage import devices
from agent.storage.devices import Device
from agent.storage.errors import ExtractionFailed, LayerInvalid
from agent.storage.extract import extract
from agent.storage.limits import Limits, Rights
from tests.contract.archives import archive, device, entry, fifo, folder, hardlink, symlink

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices")]
Unpack = Callable[..., None]
NULL = os.makedev(1, 3)


@pytest.fixture(params=[False, True], ids=["overlay", "merged"])
def unpack(request: pytest.FixtureRequest, tmp_path: Path) -> Unpack:
    def run(*entries: Any) -> None:
        source = io.BytesIO(archive(*entries))
        found = extract(source, str(tmp_path), limits=Limits(seconds=60), rights=Rights(keep_devices=True), merged=request.param)
        devices.make(str(tmp_path), found.devices)

    return run


def test_a_device_is_whole(unpack: Unpack, tmp_path: Path) -> None:
    block = {"kind": tarfile.BLKTYPE, "mode": 0o640, "uid": 70_000, "gid": 6, "mtime": 1_600_000_000.5}
    unpack(
        folder("d", mtime=1_500_000_000),
        device("d/disk", 8, 17, **block),
        hardlink("d/same", "d/disk"),
        hardlink("top", "d/same"),
    )
    info = (tmp_path / "d/disk").lstat()
    assert (stat.S_ISBLK(info.st_mode), info.st_rdev) == (True, os.makedev(8, 17))
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns) == (
        0o640,
        70_000,
        6,
        1_600_000_000_500_000_000,
    )
    assert info.st_nlink == 3
    assert {(tmp_path / name).lstat().st_ino for name in ("d/same", "top")} == {info.st_ino}
    assert (tmp_path / "d").stat().st_mtime_ns == 1_500_000_000_000_000_000


@pytest.mark.parametrize(
    ("later", "kind"),
    [
        (entry("x", b"file"), stat.S_ISREG),
        (folder("x"), stat.S_ISDIR),
        (symlink("x", "nowhere"), stat.S_ISLNK),
        (fifo("x"), stat.S_ISFIFO),
        (hardlink("x", "other"), stat.S_ISREG),
    ],
    ids=["file", "directory", "link", "fifo", "hard link"],
)
def test_what_comes_later_takes_its_place(unpack: Unpack, tmp_path: Path, later: Any, kind: Callable[[int], bool]) -> None:
    unpack(entry("other", b"1"), device("x", 1, 3), later, device("last", 1, 3))
    assert kind((tmp_path / "x").lstat().st_mode)
    assert (tmp_path / "last").lstat().st_rdev == NULL


def test_it_goes_with_its_directory_and_takes_the_place_of_things(unpack: Unpack, tmp_path: Path) -> None:
    unpack(folder("d"), device("d/null", 1, 3), entry("d", b"file"), folder("e"), entry("e/f", b"1"), device("e", 1, 3))
    assert (tmp_path / "d").read_bytes() == b"file"
    assert (tmp_path / "e").lstat().st_rdev == NULL


def test_a_hard_link_of_one_that_went_is_still_a_device(unpack: Unpack, tmp_path: Path) -> None:
    unpack(device("x", 1, 3), hardlink("y", "x"), entry("x", b"file"))
    assert (tmp_path / "y").lstat().st_rdev == NULL
    assert (tmp_path / "x").read_bytes() == b"file"


@pytest.mark.parametrize("numbers", [(0, 0), (4096, 0), (1, 1 << 20)])
def test_numbers_that_are_none(unpack: Unpack, numbers: tuple[int, int]) -> None:
    with pytest.raises(LayerInvalid) as caught:
        unpack(device("x", *numbers))
    assert caught.value.extra["rule"] == "device"


@pytest.mark.parametrize(
    "item",
    [
        None,
        ["x"],
        ["x", "c", 1],
        ["x", "p", 1, 3],
        ["x", "c", 0, 0],
        ["x", "c", -1, 3],
        ["x", "b", 4096, 0],
        ["ŧ", "c", 1, 3],
        [1, "c", 1, 3],
        ["x", "c", "1", None],
    ],
)
def test_a_helper_is_not_believed(item: Any) -> None:
    with pytest.raises(ExtractionFailed):
        Device.parse(item)


@pytest.mark.parametrize("path", [b"../victim", b"link/victim", b"/victim", b"d/../../victim", b"file", b"absent"])
def test_nothing_outside_is_replaced(tmp_path: Path, path: bytes) -> None:
    """Whatever a helper that was taken over names."""
    layer = tmp_path / "layer"
    (layer / "d").mkdir(parents=True)
    (layer / "file").touch()
    (layer / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "victim")
    with pytest.raises((OSError, ExtractionFailed)):
        devices.make(str(layer), (Device(path, "c", 1, 3),))
    assert stat.S_ISFIFO((tmp_path / "victim").lstat().st_mode)
    assert (layer / "file").is_file()
