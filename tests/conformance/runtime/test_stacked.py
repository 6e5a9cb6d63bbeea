"""Overlays as kernels before 6.7 take them, which every kernel still does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.runtime import mounts, stacked
from agent.runtime.errors import InvalidConfig
from agent.runtime.mounts import MountStep
from agent.sys import mountapi as api
from agent.sys.mount import Mount


def step_of(tmp_path: Path, layers: int) -> MountStep:
    lowers = [tmp_path / f"layer,{number}:of" for number in range(layers)]  # what would end an option or a layer's name
    for number, lower in enumerate(lowers):
        lower.mkdir()
        (lower / "which").write_text(str(number))
        (lower / f"only{number}").touch()
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = tuple(f"lowerdir={lower}" for lower in lowers)
    return mounts.from_storage(
        Mount("overlay", "overlay", "", (*options, f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"))
    )


def test_layers_in_order_and_nothing_mounted_on_the_host(tmp_path: Path) -> None:
    mount = stacked.overlay(step_of(tmp_path, 3), api.MOUNT_ATTR_NOEXEC)
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{mount}")) == ["only0", "only1", "only2", "which"]
        file = os.open("which", os.O_RDWR, dir_fd=mount)
        assert os.read(file, 9) == b"0"
        os.write(file, b"new")
        os.close(file)
        assert os.fstatvfs(mount).f_flag & os.ST_NOEXEC
    finally:
        os.close(mount)
    assert (tmp_path / "upper/which").read_text() == "0new"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_more_layers_than_a_page_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="400 layers"):
        stacked.overlay(step_of(tmp_path, 400), 0)


def test_the_kernels_refusal_comes_back(tmp_path: Path) -> None:
    step = step_of(tmp_path, 1)
    step.params.append((api.FSCONFIG_SET_STRING, b"no_such_option", b"1", 0))
    with pytest.raises(OSError, match="mount overlay"):
        stacked.overlay(step, 0)
