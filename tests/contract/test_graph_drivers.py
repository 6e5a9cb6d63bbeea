"""Every graph driver passes the one suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.storage import choose
from agent.storage.errors import DriverAmbiguous, DriverUnsupported
from tests.contract.graph_driver_suite import GraphDriverSuite

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]


class TestOverlay2(GraphDriverSuite):
    driver_name = "overlay2"


class TestVfs(GraphDriverSuite):
    driver_name = "vfs"


def test_choose_prefers_overlay2(tmp_path: Path) -> None:
    assert choose(str(tmp_path)).name == "overlay2"
    assert not any(name.startswith(".probe") for name in os.listdir(tmp_path))


def test_choose_refuses_the_unknown(tmp_path: Path) -> None:
    with pytest.raises(DriverUnsupported, match="overlay2, vfs"):
        choose(str(tmp_path), "aufs")


def test_choose_asks_when_two_are_populated(tmp_path: Path) -> None:
    for name in ("overlay2", "vfs"):
        (tmp_path / name / "layers" / ("ab" * 32)).mkdir(parents=True)
    with pytest.raises(DriverAmbiguous):
        choose(str(tmp_path))
