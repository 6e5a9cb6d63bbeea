"""Fixtures of the seams' suites."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage import choose
from tests.contract import loopdisk
from tests.contract.daemons import adopted
from tests.contract.graph_driver_suite import KEPT, STACKS, Signatures, signature, stack
from tests.contract.mounting import mounted


@pytest.fixture(scope="session")
def ext4_disk() -> Iterator[Path]:
    yield from _disk("ext4")


@pytest.fixture(scope="session")
def btrfs_disk() -> Iterator[Path]:
    yield from _disk("btrfs")


@pytest.fixture(scope="session")
def xfs_disk() -> Iterator[Path]:
    yield from _disk("xfs")


@pytest.fixture(scope="session")
def yardstick(ext4_disk: Path) -> Signatures:
    """What vfs shows of each of the suite's stacks."""
    vfs = choose(str(ext4_disk / "yardstick"), "vfs", rights=KEPT)
    found: Signatures = {}
    for layers in STACKS:
        with mounted(vfs.view(stack(vfs, *layers)), str(ext4_disk / "target")) as target:
            found[layers] = signature(target)
    return found


def _disk(kind: str) -> Iterator[Path]:
    if reason := loopdisk.missing(kind):
        pytest.skip(reason)
    memory = "/dev/shm"  # a disk in memory is faster, and nobody else's writes hold it up
    home = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        with loopdisk.disk(kind, home / "disk", 2 << 30) as root:
            yield root
    finally:
        shutil.rmtree(home)


@pytest.fixture
def adopted_daemons() -> Iterator[None]:
    with adopted():
        yield
