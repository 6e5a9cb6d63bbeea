"""CVE-2026-41579: /dev of the image is a link, and the runtime makes device nodes through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.runtime import devfs
from agent.runtime.plan import Plan
from tests.conformance.runtime.conftest import Runner


@pytest.mark.parametrize("naive", [False, True])
def test_device_nodes_appear_in_the_containers_dev_only(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (rootfs / "dev").symlink_to(victim)
    os.makedirs(rootfs / str(victim).lstrip("/"))  # where the link leads inside
    populate = devfs.populate

    def by_path(root: int, dev: int, plan: Plan, bind_only: bool) -> None:
        """As if /dev were trusted: opened by its path on the host, after the mounts."""
        populate(root, os.open(rootfs / "dev", os.O_RDONLY | os.O_DIRECTORY), plan, bind_only)

    if naive:
        monkeypatch.setattr(devfs, "populate", by_path)
    outcome = runner.sh("ls /dev/", root=rootfs)
    made = sorted(path.name for path in victim.iterdir())
    assert ("null" in made) is naive
    assert naive or made == []
    assert ("null" in outcome.output) is not naive
