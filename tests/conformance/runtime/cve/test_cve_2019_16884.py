"""CVE-2019-16884, CVE-2023-27561, CVE-2023-28642: a volume, or a link that a mount follows, puts something else in /proc's place:
security labels are then written to, and read-only paths are laid over, a sham."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import WharfError
from agent.runtime import labels
from agent.runtime import rootfs as building
from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner


def sham(tmp_path: Path) -> Path:
    (tmp_path / "sham/self/attr").mkdir(parents=True)
    (tmp_path / "sham/self/status").write_text("sham\n")
    return tmp_path / "sham"


def volume_at(destination: str, source: Path, kind: str = "bind") -> Any:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {"destination": destination, "type": kind, "source": str(source), "options": ["bind"] if kind == "bind" else []}
        )

    return change


@pytest.mark.parametrize("destination", ["/proc", "/proc/", "/proc/self", "/proc/1/attr", "/proc/sys", "/link", "/link/sys"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_nothing_else_takes_the_place_of_proc(runner: Runner, rootfs: Path, tmp_path: Path, destination: str, kind: str) -> None:
    (rootfs / "link").symlink_to("/proc")
    with pytest.raises(RuntimeFailed, match="only another procfs"):
        runner.run("true", root=rootfs, change=volume_at(destination, sham(tmp_path), kind))


@pytest.mark.parametrize("destination", ["/proc", "/link"])
def test_without_the_guard_the_container_sees_a_sham(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    (rootfs / "link").symlink_to("/proc")
    monkeypatch.setattr(building, "_spare_proc", lambda *_: None)
    change = volume_at(destination, sham(tmp_path))
    assert runner.run("cat", "/proc/self/status", root=rootfs, change=change).output == "sham\n"


def test_figures_and_another_procfs_may_be_shown(runner: Runner, rootfs: Path, tmp_path: Path) -> None:
    """What lxcfs does, and a container that sees the host's processes."""
    (tmp_path / "uptime").write_text("1.00 2.00\n")
    assert (
        runner.run("cat", "/proc/uptime", root=rootfs, change=volume_at("/proc/uptime", tmp_path / "uptime")).output
        == "1.00 2.00\n"
    )

    def hosts(config: dict[str, Any]) -> None:
        config["mounts"][0] = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "ro"]}
        config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "pid"]

    assert "Name:" in runner.run("cat", "/proc/1/status", root=rootfs, change=hosts).output


@pytest.mark.parametrize("key", ["apparmorProfile", "selinuxLabel"])
def test_a_label_that_cannot_be_written_is_refused(runner: Runner, key: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"][key] = "some-label"

    why = "AppArmor|no profile 'some-label' is loaded" if key == "apparmorProfile" else "SELinux|failed at labels"
    with pytest.raises(WharfError, match=why):
        runner.run("true", change=change)


@pytest.mark.skipif(not labels.apparmor_runs(), reason="this kernel does not run AppArmor")
def test_a_profile_that_is_there_is_taken(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["apparmorProfile"] = "unconfined"

    assert runner.run("cat", "/proc/self/attr/current", change=change).output.startswith("unconfined")
