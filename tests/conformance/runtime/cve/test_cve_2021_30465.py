"""CVE-2021-30465 and CVE-2024-45310: the target of a mount, in a volume that another container writes to, becomes a link to the
host between check and use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import rootfs as building
from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner
from tests.pace import patience

REPOSITORY = Path(__file__).parents[4]
RACE = Path(__file__).parent / "race.py"
MOUNTS = 10_000


def trap(root: Path, victim: Path, inside: bool) -> None:
    """`inside`: what the link names exists in the container, too, so that following it there is no error."""
    (root / "vol/target").mkdir(parents=True)
    victim.mkdir()
    (root / "vol/link").symlink_to(victim)
    if inside:
        os.makedirs(root / str(victim).lstrip("/"))


@pytest.mark.parametrize("mode", ["ours", "naive"])
def test_ten_thousand_mounts_stay_inside(tmp_path: Path, mode: str) -> None:
    root, victim = tmp_path / "root", tmp_path / "victim"
    trap(root, victim, inside=True)
    done = subprocess.run(
        [sys.executable, RACE, mode, str(root), str(victim), str(MOUNTS)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=patience(100),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outside = done.stdout.split()
    assert (outside == []) is (mode == "ours"), (outside, done.stderr)


@pytest.fixture
def swapper(runner: Runner, rootfs: Path, tmp_path: Path) -> Iterator[None]:
    """Ends before the runner looks for what is left."""
    trap(rootfs, tmp_path / "victim", inside=True)
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        a, b = bytes(rootfs / "vol/target"), bytes(rootfs / "vol/link")
        while True:
            libc.renameat2(-100, a, -100, b, 2)  # RENAME_EXCHANGE
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        shutil.rmtree(rootfs / "vol")


def made_by_path(rootfs: Path) -> Any:
    """Check, then use: what lies inside when it is looked at is made by its path, as runc did."""
    inside = building.target_in
    volume = bytes(rootfs) + b"/vol/target"

    def target_in(root: int, path: bytes, directory: bool, plain: bool = False, follow: bool = True) -> int:
        whole = bytes(rootfs) + b"/" + path
        if path.startswith(b"vol/") and not os.path.islink(volume):
            with contextlib.suppress(OSError):  # gone for a moment
                os.makedirs(whole, exist_ok=True)
        return inside(root, path, directory, plain, follow)

    return target_in


@pytest.mark.usefixtures("swapper")
@pytest.mark.parametrize("naive", [False, True])
def test_whole_starts_leave_the_host_alone(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Directories that a mount needs are made inside, too (CVE-2024-45310)."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": f"/vol/target/made{number}/deep", "type": "tmpfs", "source": "tmpfs"} for number in range(25)
        ]

    def outside() -> list[Path]:
        return list((tmp_path / "victim").iterdir())

    if naive:
        monkeypatch.setattr(building, "target_in", made_by_path(rootfs))
    for _ in range(1000 if naive else 20):  # it needs luck, and stops once it had some
        try:
            assert runner.run("true", root=rootfs, change=change).status == 0
        except RuntimeFailed:
            pass  # lost the race: an error, nothing outside
        if outside():
            break
    assert bool(outside()) is naive
