"""Who may enter what, and the view for those who may not."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from controlplane.launcher import privileges
from controlplane.launcher.privileges import SystemUser, View, links_on_the_way, obstacle


@pytest.fixture
def user() -> SystemUser:
    return SystemUser(pwd.struct_passwd(("other", "x", 54321, 54321, "", "/", "/bin/false")))


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that everybody may enter from the root on (pytest's own are closed)."""
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_uid == os.geteuid() and directory not in {Path("/"), Path("/tmp")}:
            directory.chmod(0o755)
    return tmp_path


def test_the_uppermost_closed_directory_is_the_obstacle(user: SystemUser, open_path: Path) -> None:
    inner = open_path / "closed" / "also" / "clone"
    inner.mkdir(parents=True)
    assert obstacle(user, inner) is None
    (open_path / "closed" / "also").chmod(0o700)
    assert obstacle(user, inner) == open_path / "closed" / "also"
    (open_path / "closed").chmod(0o700)
    assert obstacle(user, inner) == open_path / "closed"
    (open_path / "closed").chmod(0o755)
    (open_path / "closed" / "also").chmod(0o755)


def test_a_view_binds_what_is_needed_and_the_home_last(
    user: SystemUser, open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = open_path / "closed dir"
    clone, home = closed / "clone", closed / "clone" / "home"
    home.mkdir(parents=True)
    closed.chmod(0o700)
    monkeypatch.setattr(privileges, "links_on_the_way", lambda path: [(closed / "bin" / "python", "/usr/bin/python3")])
    view = View(user, [clone, clone / "inside", open_path], [home], open_path / "stage")
    assert view.needed
    assert view.hidden == [closed]
    assert view.binds == [(clone, False), (home, True)]
    script = view.script()
    assert script.index("remount,bind,ro") < script.index("stage/clone/home")
    assert f"remount,bind,ro,nosuid {open_path}/stage/clone/home" not in script
    assert f"mount --move {open_path}/stage '{closed}'" in script
    assert "ln -sfn /usr/bin/python3" in script
    closed.chmod(0o755)


def test_an_open_tree_needs_no_view(user: SystemUser, open_path: Path) -> None:
    assert not View(user, [open_path], [open_path], open_path / "stage").needed


def test_every_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "real" / "bin").mkdir(parents=True)
    (tmp_path / "real" / "bin" / "python3.11").touch()
    (tmp_path / "real" / "bin" / "python").symlink_to("python3.11")
    (tmp_path / "version").symlink_to("real")
    (tmp_path / "venv").symlink_to(tmp_path / "version" / "bin" / "python")
    assert links_on_the_way(tmp_path / "venv") == [
        (tmp_path / "venv", str(tmp_path / "version" / "bin" / "python")),
        (tmp_path / "version", "real"),
        (tmp_path / "real" / "bin" / "python", "python3.11"),
    ]
