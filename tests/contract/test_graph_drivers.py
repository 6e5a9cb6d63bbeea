"""Every graph driver passes the one suite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage import DRIVERS, choose, elsewhere, populated, working, zfs
from agent.storage.errors import DriverAmbiguous, DriverFailed, DriverUnsupported
from agent.sys import devmapper, fuse, programs
from tests.contract import loopdisk
from tests.contract.graph_driver_suite import BASE, KEPT, GraphDriverSuite, stack
from tests.contract.mounting import mounted
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


@pytest.mark.skipif(not devmapper.available() or programs.find("dmsetup") is None, reason="needs device mapper and dmsetup")
class TestRealDeviceMapper(GraphDriverSuite):
    """On the kernel's own thin pools, in files."""

    driver_name = "devicemapper"
    options = ("dm.loopdatasize=1g", "dm.loopmetadatasize=16m", "dm.fs=ext4", "dm.basesize=64m")

    @pytest.fixture(autouse=True)
    def swept(self, tmp_path: Path) -> Iterator[None]:
        before = _devices()
        try:
            yield
        finally:
            for name in sorted(_devices() - before, key=lambda name: name.endswith("-pool")):  # the pool last
                devmapper.remove(name)
            for device in loopdisk.attached(tmp_path):
                loopdisk.tool("losetup", "--detach", device)

    @pytest.mark.parametrize("kind", ["ext4", "xfs"])
    def test_a_device_grows_to_its_size(self, tmp_path: Path, target: str, kind: str) -> None:
        base = 64 if kind == "ext4" else 320
        options = ("dm.loopdatasize=2g", "dm.loopmetadatasize=16m", f"dm.fs={kind}", f"dm.basesize={base}m")
        driver = choose(str(tmp_path / "data"), "devicemapper", options=options)
        with mounted(driver.prepare("large", stack(driver, BASE), size=4 * base << 20), target):
            state = os.statvfs(target)
            assert 4 * base * 0.6 < state.f_blocks * state.f_frsize >> 20 <= 4 * base

    def test_a_device_that_is_open_goes_later(self, tmp_path: Path) -> None:
        options = (*self.options, "dm.use_deferred_removal=true", "dm.use_deferred_deletion=true")
        driver = choose(str(tmp_path / "data"), "devicemapper", options=options)
        (mount,) = driver.prepare("one", [])
        holder = os.open(mount.source, os.O_RDONLY)
        try:
            driver.remove_container("one")
            waiting = tmp_path / "data" / "devicemapper" / "pool" / "deferred"
            assert len(os.listdir(waiting)) == 1
        finally:
            os.close(holder)
        choose(str(tmp_path / "data"), "devicemapper", options=options)
        assert os.listdir(waiting) == []

    def test_a_device_that_is_open_is_an_error_else(self, tmp_path: Path) -> None:
        driver = self.open(tmp_path / "data")
        (mount,) = driver.prepare("one", [])
        holder = os.open(mount.source, os.O_RDONLY)
        try:
            with pytest.raises(DriverFailed, match="busy"):
                driver.remove_container("one")
        finally:
            os.close(holder)
        self.open(tmp_path / "data")  # sweeps what the first try left
        assert os.listdir(tmp_path / "data" / "devicemapper" / "tmp") == []


def _devices() -> set[str]:
    return {word for word in loopdisk.tool("dmsetup", "ls").split() if word.startswith("wharfinger-")}


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
    stack(choose(str(tmp_path), "vfs", rights=KEPT), BASE)
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
