"""CVE-2025-31133: the container's /dev/null, with which paths are masked, is a link to a file of procfs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import rootfs as building
from agent.sys import mountapi as api
from tests.conformance.runtime.conftest import Runner

TARGET = "/proc/sys/kernel/core_pattern"


def mask_with_the_containers_null(root: int, paths: list[bytes]) -> None:
    """The naive step."""
    null = api.open_in(root, b"dev/null", os.O_PATH)
    for path in paths:
        target = building._existing(root, path)
        if target >= 0 and not os.path.isdir(f"/proc/self/fd/{target}"):
            api.attach(api.clone_tree(null), target)


@pytest.mark.parametrize("naive", [False, True])
def test_masks_come_from_the_host(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """/dev is a volume that the attacker filled, so our own /dev does not save us."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").symlink_to(TARGET)

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/dev")]
        config["mounts"].append({"destination": "/dev", "type": "bind", "source": str(tmp_path / "dev"), "options": ["bind"]})

    if naive:
        monkeypatch.setattr(building, "_mask", mask_with_the_containers_null)
    pattern = Path(TARGET).read_text()
    # reading is proof enough: writing would change the host
    outcome = runner.sh("cat /proc/keys; ls -l /proc/keys", root=rootfs, change=change)
    assert outcome.output.startswith(pattern) is naive
    assert (" 1,   3 " in outcome.output) is not naive
    assert Path(TARGET).read_text() == pattern


def test_a_null_of_the_image_does_not_reach_the_host(runner: Runner, rootfs: Path) -> None:
    (rootfs / "dev").mkdir()
    (rootfs / "dev/null").symlink_to(TARGET)
    pattern = Path(TARGET).read_text()
    assert runner.sh("echo owned > /dev/null; cat /proc/keys", root=rootfs).output == ""
    assert Path(TARGET).read_text() == pattern


def test_a_null_of_the_host_that_is_none_is_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def other(path: Any, *args: Any, **kwargs: Any) -> int:
        return real(b"/dev/zero" if path == b"/dev/null" else path, *args, **kwargs)

    monkeypatch.setattr(os, "open", other)
    with pytest.raises(Exception, match="not the null device"):
        runner.run("true")
