"""Graph drivers on disks that are full, on disks that share extents, and with more layers than anybody has."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pytest

from agent.storage import choose, trees
from agent.storage.errors import NoSpace
from agent.sys import fs
from tests.contract import loopdisk
from tests.contract.archives import archive, entry
from tests.contract.graph_driver_suite import BASE, KEPT, stack
from tests.contract.mounting import mounted

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]
MIB = 1 << 20


def test_two_hundred_layers(ext4_disk: Path, tmp_path: Path) -> None:
    driver = choose(tempfile.mkdtemp(dir=ext4_disk), "overlay2", rights=KEPT)
    first = driver.apply(None, None, io.BytesIO(BASE))
    chain = [first.chain_id]
    for number in range(1, 200):
        chain.insert(0, _cheap_layer(driver, chain[0], number))
    target = str(tmp_path / "target")
    with mounted(driver.prepare("tall", chain), target):
        assert Path(target, "which").read_text() == "199"
        assert len(os.listdir(f"{target}/all")) == 199
        assert Path(target, "etc/passwd").read_text() == "root:x:0:0\n"
        Path(target, "which").write_text("mine")
    with mounted(driver.view(chain), target):
        assert Path(target, "which").read_text() == "199"
    assert {change.path for change in driver.changes("tall")} == {"/which"}


def _cheap_layer(driver: object, parent: str, number: int) -> str:
    """A layer as `apply` leaves it, without starting 200 helpers: the directory and its row."""
    from agent.storage.table import Layer, chain_id, hex_of

    table = driver.table  # type: ignore[attr-defined]
    identifier = chain_id(parent, f"sha256:{number:064x}")
    root = Path(driver.root, "layers", hex_of(identifier), "diff")  # type: ignore[attr-defined]
    (root / "all").mkdir(parents=True)
    (root / "which").write_text(str(number))
    (root / "all" / str(number)).touch()
    table.put(Layer(identifier, parent, f"sha256:{number:064x}", 0, 0))
    return identifier


@pytest.mark.skipif(bool(loopdisk.missing("ext4")), reason=loopdisk.missing("ext4"))
@pytest.mark.parametrize("name", ["overlay2", "vfs"])
def test_a_layer_that_does_not_fit(tmp_path: Path, name: str) -> None:
    with loopdisk.disk("ext4", tmp_path / "small", 8 * MIB) as root:
        driver = choose(str(root / "data"), name, rights=KEPT)
        with pytest.raises(NoSpace):
            driver.apply(None, None, io.BytesIO(archive(entry("big", os.urandom(9 * MIB)))))
        assert driver.table.layers() == []
        assert os.listdir(root / "data" / name / "tmp") == []
        assert driver.apply(None, None, io.BytesIO(BASE)).size > 0  # the room was given back


@pytest.mark.skipif(bool(loopdisk.missing("ext4")), reason=loopdisk.missing("ext4"))
def test_a_container_that_does_not_fit(tmp_path: Path) -> None:
    with loopdisk.disk("ext4", tmp_path / "small", 8 * MIB) as root:
        driver = choose(str(root / "data"), "vfs")
        chain = stack(driver, archive(entry("big", os.urandom(4 * MIB))))
        with pytest.raises(NoSpace):
            driver.prepare("copy", chain)
        assert driver.table.containers() == {}
        assert os.listdir(root / "data" / "vfs" / "tmp") == []


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_vfs_shares_extents_where_the_disk_can(request: pytest.FixtureRequest, kind: str) -> None:
    disk: Path = request.getfixturevalue(f"{kind}_disk")
    driver = choose(tempfile.mkdtemp(dir=disk), "vfs")
    chain = stack(driver, archive(entry("big", os.urandom(32 * MIB))))
    before = _used(disk)
    for number in range(4):
        driver.prepare(f"c{number}", chain)
    assert _used(disk) - before < 8 * MIB  # four copies of 32 MiB


def _used(disk: Path) -> int:
    fd = trees.open_directory(str(disk))
    try:
        fs.syncfs(fd)
    finally:
        os.close(fd)
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def test_vfs_copies_where_the_disk_cannot_share(ext4_disk: Path) -> None:
    driver = choose(tempfile.mkdtemp(dir=ext4_disk), "vfs")
    chain = stack(driver, archive(entry("big", b"x" * MIB)))
    driver.prepare("one", chain)
    copy = Path(driver.root, "containers", "one", "rootfs", "big")  # type: ignore[attr-defined]
    assert copy.read_bytes() == b"x" * MIB
