"""Every graph driver passes the one suite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage import DRIVERS, choose, elsewhere, populated, working, zfs
from agent.storage.errors import DriverAmbiguous, DriverUnsupported
from agent.sys import fuse
from tests.contract import loopdisk
from tests.contract.graph_driver_suite import BASE, GraphDriverSuite, stack
from tests.contract.volume_programs import FakePool, FakeZfs

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]


class TestOverlay2(GraphDriverSuite):
    driver_name = "overlay2"


class TestVfs(GraphDriverSuite):
    driver_name = "vfs"


@pytest.mark.skipif(bool(loopdisk.missing("btrfs")), reason=loopdisk.missing("btrfs"))
class TestBtrfs(GraphDriverSuite):
    driver_name = "btrfs"

    @pytest.fixture
    def tmp_path(self, btrfs_disk: Path) -> Path:
        return Path(tempfile.mkdtemp(dir=btrfs_disk))


@pytest.mark.skipif(fuse.program() is None, reason="needs fuse-overlayfs")
@pytest.mark.usefixtures("adopted_daemons")
class TestFuseOverlayfs(GraphDriverSuite):
    driver_name = "fuse-overlayfs"


@pytest.mark.skipif(bool(loopdisk.missing("ext4")), reason=loopdisk.missing("ext4"))
class TestDeviceMapper(GraphDriverSuite):
    """On a stand-in for dmsetup whose thin devices are files: the file systems, their mounts and growth are real."""

    driver_name = "devicemapper"
    options = ("dm.thinpooldev=/dev/mapper/pool", "dm.fs=ext4", "dm.basesize=64m")

    @pytest.fixture(autouse=True)
    def pool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
        (tmp_path / "dm").mkdir()
        pool = FakePool(tmp_path / "dm")
        pool.install(monkeypatch)
        try:
            yield pool
        finally:
            pool.close()


class TestZfs(GraphDriverSuite):
    """On a stand-in for the program zfs whose datasets are directories."""

    driver_name = "zfs"
    options = ("zfs.fsname=tank",)

    @pytest.fixture(autouse=True)
    def tank(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeZfs:
        (tmp_path / "tank").mkdir()
        tank = FakeZfs(tmp_path / "tank")
        tank.install(monkeypatch)
        return tank


def test_choose_prefers_overlay2(tmp_path: Path) -> None:
    assert choose(str(tmp_path)).name == "overlay2"
    assert not any(name.startswith(".probe") for name in os.listdir(tmp_path))


@pytest.mark.parametrize("absent", [1, 2, 3, 4])
def test_choose_takes_the_first_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: int) -> None:
    order = ["overlay2", "fuse-overlayfs", "btrfs", "zfs", "vfs"]

    def fail(_root: str, _options: object) -> None:
        raise DriverUnsupported("not here")

    for name in order:
        monkeypatch.setattr(DRIVERS[name], "probe", fail if order.index(name) < absent else lambda _root, _options: None)
    monkeypatch.setattr(zfs, "_parent_dataset", lambda _root, _options: "tank")
    assert choose(str(tmp_path)).name == order[absent]
    assert working(str(tmp_path))[0] == order[absent]


def test_choose_stays_with_what_holds_images(tmp_path: Path) -> None:
    stack(choose(str(tmp_path), "vfs"), BASE)
    assert choose(str(tmp_path)).name == "vfs"
    assert populated(str(tmp_path)) == ["vfs"]


def test_containers_of_other_drivers_are_known(tmp_path: Path) -> None:
    choose(str(tmp_path), "vfs").prepare("one", [])
    choose(str(tmp_path), "overlay2").prepare("two", [])
    assert elsewhere(str(tmp_path), "overlay2") == {"one": "vfs"}
    assert elsewhere(str(tmp_path), "vfs") == {"two": "overlay2"}
    assert elsewhere(str(tmp_path), "btrfs") == {"one": "vfs", "two": "overlay2"}


def test_choose_refuses_the_unknown(tmp_path: Path) -> None:
    with pytest.raises(DriverUnsupported, match="overlay2, fuse-overlayfs"):
        choose(str(tmp_path), "zfs2")


def test_choose_asks_when_two_are_populated(tmp_path: Path) -> None:
    for name in ("overlay2", "vfs"):
        (tmp_path / name / "layers" / ("ab" * 32)).mkdir(parents=True)
    with pytest.raises(DriverAmbiguous):
        choose(str(tmp_path))
