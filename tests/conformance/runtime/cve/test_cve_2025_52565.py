"""CVE-2025-52565: /dev/console of the image is a link, and the terminal is mounted over what it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import devfs, targets
from agent.runtime.errors import RuntimeFailed
from agent.sys import mountapi as api
from tests.conformance.runtime.conftest import Runner

TARGET = "/proc/uptime"


def console_through_links(root: int, slave: int) -> None:
    """The naive step."""
    target = targets.target_in(root, b"dev/console", directory=False)
    api.attach(api.clone_tree(slave), target)


@pytest.mark.parametrize("naive", [False, True])
def test_the_terminal_is_mounted_over_no_link(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    (tmp_path / "dev/console").symlink_to(TARGET)

    def change(config: dict[str, Any]) -> None:
        kept = [mount for mount in config["mounts"] if mount["destination"] not in ("/dev", "/dev/mqueue", "/dev/shm")]
        dev = {"destination": "/dev", "type": "bind", "source": str(tmp_path / "dev"), "options": ["bind"]}
        config["mounts"] = [*kept[:1], dev, *kept[1:]]

    if naive:
        monkeypatch.setattr(devfs, "mount_console", console_through_links)
        outcome = runner.sh(
            "grep devpts /proc/self/mountinfo",
            root=rootfs,
            terminal=True,
            change=change,
        )
        assert f" {TARGET} " in outcome.output, outcome.output  # the terminal's mount lies where the fence should be
        return
    with pytest.raises(RuntimeFailed, match="through a link"):
        runner.sh("true", root=rootfs, terminal=True, change=change)


def test_the_terminal_is_one_of_devpts(runner: Runner, rootfs: Path, tmp_path: Path) -> None:
    """A directory that only looks like /dev/pts gives no terminal."""
    (tmp_path / "pts").mkdir()
    os.mknod(tmp_path / "pts/ptmx", 0o020666, os.makedev(1, 3))

    def change(config: dict[str, Any]) -> None:
        for mount in config["mounts"]:
            if mount["destination"] == "/dev/pts":
                mount.update({"type": "bind", "source": str(tmp_path / "pts"), "options": ["bind"]})

    with pytest.raises(RuntimeFailed, match="not a devpts"):
        runner.sh("true", root=rootfs, terminal=True, change=change)
