"""Size limits of containers, and the options of the drivers that keep them."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage import choose
from agent.storage.devicemapper import lvm
from agent.storage.driver import GraphDriver
from agent.storage.errors import DriverFailed, DriverUnsupported, NoSpace, OptionInvalid, SizeUnsupported
from agent.sys import btrfs, devmapper, programs, projquota
from agent.sys.programs import ProgramFailed
from tests.contract import loopdisk
from tests.contract.graph_driver_suite import BASE, KEPT, stack
from tests.contract.mounting import mounted
from tests.contract.volume_programs import FakePool, FakeZfs

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]
MIB = 1 << 20
POOL = "dm.thinpooldev=/dev/mapper/pool"
SMALL = (POOL, "dm.fs=ext4", "dm.basesize=64m")


def fill(target: str, size: int) -> None:
    """Write until `size` bytes are on disk, or the disk says no."""
    fd = os.open(f"{target}/filling", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(size // MIB):
            os.write(fd, os.urandom(MIB))
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.fixture
def disk(ext4_disk: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=ext4_disk))


@pytest.fixture
def pool(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    (disk / "dm").mkdir()
    pool = FakePool(disk / "dm")
    pool.install(monkeypatch)
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture
def tank(disk: Path, monkeypatch: pytest.MonkeyPatch) -> FakeZfs:
    (disk / "tank").mkdir()
    tank = FakeZfs(disk / "tank")
    tank.install(monkeypatch)
    return tank


def device_mapper(disk: Path, *options: str) -> GraphDriver:
    return choose(str(disk / "data"), "devicemapper", options=options or SMALL, rights=KEPT)


# --- btrfs -------------------------------------------------------------------------------------------------------------------


def test_a_btrfs_container_ends_at_its_size(btrfs_disk: Path, tmp_path: Path) -> None:
    driver = choose(tempfile.mkdtemp(dir=btrfs_disk), "btrfs", rights=KEPT)
    chain = stack(driver, BASE)
    target = str(tmp_path / "target")
    with mounted(driver.prepare("small", chain, size=16 * MIB), target):
        with pytest.raises(OSError, match="quota") as caught:
            fill(target, 32 * MIB)
        assert caught.value.errno == errno.EDQUOT
    with mounted(driver.prepare("free", chain), target):
        fill(target, 32 * MIB)


def test_btrfs_least_size(btrfs_disk: Path) -> None:
    driver = choose(tempfile.mkdtemp(dir=btrfs_disk), "btrfs", options=["btrfs.min_space=1G"], rights=KEPT)
    with pytest.raises(SizeUnsupported, match=r"btrfs\.min_space"):
        driver.prepare("small", [], size=16 * MIB)
    assert driver.table.containers() == {}


def test_btrfs_removes_what_a_container_made_of_its_own_subvolumes(btrfs_disk: Path, tmp_path: Path) -> None:
    driver = choose(tempfile.mkdtemp(dir=btrfs_disk), "btrfs", rights=KEPT)
    with mounted(driver.prepare("nested", []), str(tmp_path / "target")) as target:
        btrfs.create(f"{target}/own")
        Path(target, "own", "file").write_text("x")
    driver.remove_container("nested")
    assert os.listdir(Path(driver.root, "containers")) == []  # type: ignore[attr-defined]


def test_btrfs_wants_btrfs(disk: Path) -> None:
    with pytest.raises(DriverUnsupported, match="not on a btrfs file system"):
        choose(str(disk), "btrfs")


# --- devicemapper ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in ("ext4", "xfs") if not loopdisk.missing(kind)])
def test_a_thin_device_grows_to_its_size(disk: Path, pool: FakePool, kind: str) -> None:
    base = 64 if kind == "ext4" else 320  # mkfs.xfs makes nothing smaller than 300 MiB
    driver = device_mapper(disk, POOL, f"dm.fs={kind}", f"dm.basesize={base}m")
    target = str(disk / "target")
    chain = stack(driver, BASE)
    sizes = []
    for name, size in (("base", 0), ("large", 4 * base * MIB)):
        with mounted(driver.prepare(name, chain, size=size), target):
            disk_size = os.statvfs(target)
            sizes.append(disk_size.f_blocks * disk_size.f_frsize // MIB)
            assert Path(target, "etc/passwd").read_text() == "root:x:0:0\n"
    assert base * 0.6 < sizes[0] <= base
    assert 4 * base * 0.6 < sizes[1] <= 4 * base
    with pytest.raises(SizeUnsupported, match=r"dm\.basesize"):
        driver.prepare("tiny", chain, size=MIB)


def test_devices_come_and_go_with_their_layers(disk: Path, pool: FakePool) -> None:
    driver = device_mapper(disk)
    chain = stack(driver, BASE)
    assert len(pool.thin) == 2  # the base and one layer
    assert pool.active == set()  # nobody looks
    driver.prepare("one", chain)
    assert len(pool.active) == 1
    device_mapper(disk)
    assert len(pool.active) == 1
    pool.close()  # as after a reboot
    again = device_mapper(disk)
    assert len(pool.active) == 1
    again.remove_container("one")
    again.remove_layer(chain[0])
    assert (len(pool.thin), pool.active) == (1, set())


def test_a_number_that_another_has_is_left_alone(disk: Path, pool: FakePool) -> None:
    driver = device_mapper(disk)
    stack(driver, BASE)
    mine = pool.thin
    stranger = max(mine) + 1
    pool.run("dmsetup", "message", "pool", "0", f"create_thin {stranger}")
    driver.prepare("one", [])
    driver.remove_container("one")
    assert pool.thin == mine | {stranger}


def test_a_full_pool_is_no_space(disk: Path, pool: FakePool) -> None:
    driver = device_mapper(disk, *SMALL, "dm.min_free_space=15%")
    stack(driver, BASE)
    pool.free = 14
    with pytest.raises(NoSpace, match="less than 15 %"):
        driver.prepare("one", [])


def test_deferred_removal_and_deletion(disk: Path, pool: FakePool) -> None:
    driver = device_mapper(disk, *SMALL, "dm.use_deferred_removal=true", "dm.use_deferred_deletion=true")
    driver.prepare("one", [])
    (name,) = pool.active
    before = pool.thin
    pool.busy.add(name)  # somebody has it open
    driver.remove_container("one")
    assert ("remove", "--deferred", name) in pool.calls
    assert pool.thin == before
    pool.busy.clear()
    pool.run("dmsetup", "remove", name)  # what the kernel does when it is let go
    device_mapper(disk)
    assert len(pool.thin) == len(before) - 1


def test_a_busy_device_is_an_error_without_deferral(disk: Path, pool: FakePool) -> None:
    driver = device_mapper(disk)
    driver.prepare("one", [])
    pool.busy |= pool.active
    with pytest.raises(DriverFailed, match=r"graph driver devicemapper: dmsetup: .*busy"):
        driver.remove_container("one")
    pool.busy.clear()


def test_a_pool_in_files_only_when_asked(disk: Path, pool: FakePool) -> None:
    with pytest.raises(DriverUnsupported, match=r"dm\.thinpooldev.*dm\.loopdatasize"):
        device_mapper(disk, "dm.fs=ext4")
    with pytest.raises(DriverUnsupported, match=r"correct dm\.thinpooldev"):
        device_mapper(disk, "dm.thinpooldev=absent", "dm.fs=ext4")
    made: list[tuple[str, str]] = []

    def create(name: str, table: str) -> None:
        made.append((name, table))
        Path(devmapper.path(name)).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devmapper, "create", create)
        device_mapper(disk, "dm.loopdatasize=1g", "dm.loopmetadatasize=16m", "dm.fs=ext4")
    ((name, table),) = made
    assert name.startswith("wharfinger-")
    words = table.split()
    assert words[:3] == ["0", str((1 << 30) // 512), "thin-pool"]
    assert words[5] == "128"  # 64 KiB in sectors
    for device in words[3:5]:
        loopdisk.tool("losetup", "--detach", device)
    data = disk / "data" / "devicemapper" / "pool" / "data"
    assert (data.stat().st_size, data.stat().st_blocks) == (1 << 30, 0)


class Told:
    """Programs that only note what they were asked."""

    def __init__(self, signatures: str = "") -> None:
        self.signatures = signatures
        self.calls: list[tuple[str, ...]] = []

    def run(self, *words: str) -> str:
        self.calls.append(words)
        return self.signatures if words[:2] == ("wipefs", "--no-act") else ""


def test_direct_lvm_makes_the_pool_once(disk: Path, pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(programs, "run", told.run)
    monkeypatch.setattr(lvm, "PROFILES", str(disk / "profile"))
    settings = ("dm.directlvm_device=/dev/sdz", "dm.thinp_percent=90", "dm.thinp_autoextend_threshold=70", "dm.fs=ext4")
    device_mapper(disk, *settings)
    assert [call[0] for call in told.calls] == ["wipefs", "pvcreate", "vgcreate", "lvcreate", "lvcreate", "lvconvert", "lvchange"]
    assert "90%VG" in told.calls[3]
    assert "thin_pool_autoextend_threshold=70" in (disk / "profile" / "wharfinger-thinpool.profile").read_text()
    told.calls.clear()
    (pool.home / "mapper" / "wharfinger-thinpool").touch()
    device_mapper(disk, *settings)
    assert told.calls == []


def test_direct_lvm_spares_a_disk_with_data(disk: Path, pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told("# offset,uuid,label,type\n0x438,1234,,ext4\n")
    monkeypatch.setattr(programs, "run", told.run)
    with pytest.raises(DriverUnsupported, match="holds data"):
        device_mapper(disk, "dm.directlvm_device=/dev/sdz", "dm.fs=ext4")
    assert len(told.calls) == 1


def test_devicemapper_wants_a_kernel_that_has_it(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devmapper, "CONTROL", str(disk / "absent"))
    with pytest.raises(DriverUnsupported, match="no device mapper"):
        device_mapper(disk)


# --- zfs ---------------------------------------------------------------------------------------------------------------------


def test_a_dataset_has_its_quota_and_goes_with_its_container(disk: Path, tank: FakeZfs) -> None:
    driver = choose(str(disk / "data"), "zfs", options=["zfs.fsname=tank"], rights=KEPT)
    chain = stack(driver, BASE)
    before = tank.datasets
    driver.prepare("one", chain, size=16 * MIB)
    (made,) = tank.datasets - before
    assert tank.properties[made] == {"mountpoint": "legacy", "quota": str(16 * MIB)}
    assert len(tank.snapshots) == 1  # held by the clone
    driver.remove_container("one")
    assert (tank.datasets, tank.snapshots) == (before, set())


@pytest.mark.parametrize(("options", "reason"), [(["zfs.fsname=other"], "correct zfs.fsname"), ([], "put the data root on zfs")])
def test_zfs_wants_a_dataset(disk: Path, tank: FakeZfs, options: list[str], reason: str) -> None:
    with pytest.raises(DriverUnsupported, match=reason):
        choose(str(disk / "data"), "zfs", options=options)


# --- overlay2 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quota_disk(tmp_path: Path) -> Iterator[Path]:
    if reason := loopdisk.missing("xfs"):
        pytest.skip(reason)
    opened = loopdisk.disk("xfs", tmp_path / "quota", 512 * MIB, b"pquota")
    try:
        root = opened.__enter__()
    except OSError as error:
        pytest.skip(f"needs a kernel with project quota: {error.strerror}")
    with contextlib.ExitStack() as stack:
        stack.push(opened.__exit__)
        yield root


def test_an_overlay_container_ends_at_its_size(quota_disk: Path, tmp_path: Path) -> None:
    driver = choose(str(quota_disk / "data"), "overlay2", options=["overlay2.size=64m"])
    chain = stack(driver, BASE)
    target = str(tmp_path / "target")
    for name, size, room in (("small", 16 * MIB, 16), ("default", 0, 64)):
        with mounted(driver.prepare(name, chain, size=size), target):
            fill(target, (room - 8) * MIB)
            with pytest.raises(OSError, match=r"No space|quota"):
                fill(target, (room + 8) * MIB)
    places = [Path(driver.root, "containers", name) for name in ("small", "default")]  # type: ignore[attr-defined]
    numbers = [projquota.project(str(place)) for place in places]
    assert len(set(numbers)) == 2
    driver.remove_container("small")
    again = choose(str(quota_disk / "data"), "overlay2")
    again.prepare("other", chain, size=128 * MIB)  # the number is used again, and the old limit is not
    with mounted(again.prepare("other", chain), target):
        fill(target, 100 * MIB)


def test_project_numbers_are_each_containers_own(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for the kernel's projects."""
    projects: dict[str, int] = {}
    limits: dict[int, int] = {}
    monkeypatch.setattr(projquota, "keeps_limits", lambda _path: True)
    monkeypatch.setattr(projquota, "assign", lambda path, number: projects.update({str(os.stat(path).st_ino): number}))
    monkeypatch.setattr(projquota, "project", lambda path: projects.get(str(os.stat(path).st_ino), 0))
    monkeypatch.setattr(projquota, "limit", lambda _path, number, size: limits.update({number: size}))
    driver = choose(str(disk / "data"), "overlay2", options=["overlay2.size=64m"])
    driver.prepare("one", [])
    driver.prepare("two", [], size=MIB)
    assert sorted(size for size in limits.values() if size) == [MIB, 64 * MIB]
    driver.remove_container("one")
    assert [size for size in limits.values() if size] == [MIB]


# --- the others --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["overlay2", "vfs", "fuse-overlayfs"])
def test_who_cannot_limit_says_who_can(disk: Path, name: str, adopted_daemons: None) -> None:
    driver = choose(str(disk / "data"), name)
    with pytest.raises(SizeUnsupported, match="btrfs, zfs or devicemapper"):
        driver.prepare("one", [], size=1 << 30)
    assert driver.table.containers() == {}


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("overlay2", "overlay2.size=10G", "mounted with pquota"),
        ("overlay2", "btrfs.min_space=1G", "btrfs.min_space is an option of graph driver btrfs"),
        ("vfs", "colour=red", "vfs has no option 'colour'"),
        ("vfs", "size", "key=value"),
        ("btrfs", "btrfs.min_space=much", "not a size"),
        ("devicemapper", "dm.fs=ntfs", "xfs or ext4"),
        ("devicemapper", "dm.use_deferred_deletion=true", "dm.use_deferred_removal"),
        ("devicemapper", "dm.use_deferred_removal=maybe", "true or false"),
        ("devicemapper", "dm.min_free_space=110%", "percentage"),
        ("devicemapper", "dm.blocksize=1000", "multiple of 64 KiB"),
        ("zfs", "zfs.fsname=/tank", "name a dataset"),
    ],
)
def test_options_that_cannot_work(
    disk: Path, btrfs_disk: Path, pool: FakePool, tank: FakeZfs, name: str, option: str, reason: str
) -> None:
    root = tempfile.mkdtemp(dir=btrfs_disk) if name == "btrfs" else str(disk / "data")
    with pytest.raises((OptionInvalid, SizeUnsupported, DriverUnsupported), match=reason):
        choose(root, name, options=[option])


@pytest.mark.parametrize(("name", "instead"), [("aufs", "overlay2"), ("windowsfilter", "Linux"), ("overlay", "overlay2")])
def test_drivers_of_the_past(disk: Path, name: str, instead: str) -> None:
    with pytest.raises(DriverUnsupported, match=instead):
        choose(str(disk), name)


def test_programs_say_why_they_failed() -> None:
    with pytest.raises(ProgramFailed, match="not installed"):
        programs.run("no-such-program")
    with pytest.raises(ProgramFailed, match=r"mkfs\.ext4: ") as caught:
        programs.run("mkfs.ext4", "-F", "/no/such/device")
    assert caught.value.status == 1
