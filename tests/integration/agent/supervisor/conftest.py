from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.agent.supervisor.home import Home, make_rootfs


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root: real namespaces and cgroups")
    if not shutil.which("busybox"):
        pytest.skip("needs Debian's busybox-static")
    return make_rootfs(tmp_path_factory.mktemp("rootfs") / "root")


@pytest.fixture
async def home(tmp_path: Path, rootfs: Path) -> AsyncIterator[Home]:
    home = Home(tmp_path, rootfs)
    await home.open()
    yield home
    await home.close()
