"""Every graph driver passes the one suite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage import choose
from agent.storage.errors import DriverAmbiguous, DriverUnsupported
from agent.sys import fuse
from tests.contract import loopdisk
from tests.contract.graph_driver_suite import GraphDriverSuite

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]


class TestOverlay2(GraphDriverSuite):
    driver_name = "overlay2"


class TestVfs(GraphDriverSuite):
    driver_name = "vfs"


@pytest.fixture(scope="module")
def btrfs_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loopdisk.disk("btrfs", tmp_path_factory.mktemp("btrfs") / "disk", 1 << 30) as root:
        yield root


@pytest.mark.skipif(bool(loopdisk.missing("btrfs")), reason=loopdisk.missing("btrfs"))
class TestBtrfs(GraphDriverSuite):
    driver_name = "btrfs"

    @pytest.fixture
    def place(self, btrfs_disk: Path) -> Path:
        return Path(tempfile.mkdtemp(dir=btrfs_disk))


@pytest.mark.skipif(fuse.program() is None, reason="needs fuse-overlayfs")
@pytest.mark.usefixtures("adopted_daemons")
class TestFuseOverlayfs(GraphDriverSuite):
    driver_name = "fuse-overlayfs"


def test_choose_prefers_overlay2(tmp_path: Path) -> None:
    assert choose(str(tmp_path)).name == "overlay2"
    assert not any(name.startswith(".probe") for name in os.listdir(tmp_path))


def test_choose_refuses_the_unknown(tmp_path: Path) -> None:
    with pytest.raises(DriverUnsupported, match="overlay2, fuse-overlayfs"):
        choose(str(tmp_path), "zfs2")


def test_choose_asks_when_two_are_populated(tmp_path: Path) -> None:
    for name in ("overlay2", "vfs"):
        (tmp_path / name / "layers" / ("ab" * 32)).mkdir(parents=True)
    with pytest.raises(DriverAmbiguous):
        choose(str(tmp_path))
