"""The home and its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.launcher.layout import Layout


def test_one_launcher_at_a_time_and_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    fd = layout.lock()
    code = f"from controlplane.launcher.layout import Layout; from pathlib import Path; Layout(Path({str(tmp_path)!r})).lock()"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "up already" in second.stderr
    assert str(os.getpid()) in second.stderr
    assert subprocess.run([sys.executable, "-c", code.replace(".lock()", ".holder()")], check=False).returncode == 0
    os.close(fd)
    assert layout.holder() is None
    os.close(layout.lock())


def test_the_same_process_cannot_lock_twice(tmp_path: Path) -> None:
    fd = Layout(tmp_path).lock()
    with pytest.raises(Conflict):
        Layout(tmp_path).lock()
    assert Layout(tmp_path).holder() == os.getpid()
    os.close(fd)


def test_socket_paths_must_fit(tmp_path: Path) -> None:
    Layout(tmp_path / "short").check()
    with pytest.raises(InvalidInput, match="107"):
        Layout(tmp_path / ("é" * 50)).check()


def test_a_linked_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InvalidInput, match="symbolic link"):
        Layout(tmp_path / "link").check()


def test_a_directory_that_somebody_planted_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="log"):
        Layout(home).prepare(None)
