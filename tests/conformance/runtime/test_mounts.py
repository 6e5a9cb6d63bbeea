"""mounts: options of the spec and crun's, mappings of a mount's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig, RuntimeFailed
from tests.conformance.runtime.conftest import Runner
from tests.conformance.runtime.test_rootfs import with_mounts
from tests.contract import loopdisk


def bound(source: Path, *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/d", "type": "bind", "source": str(source), "options": ["bind", *options], **more}


def test_remount_changes_what_is_there(runner: Runner) -> None:
    tmpfs = {"destination": "/d", "type": "tmpfs", "source": "t", "options": ["size=1m"]}
    again = {"destination": "/d", "options": ["remount", "ro", "size=2m"]}
    line = runner.sh("grep ' /d ' /proc/mounts", change=with_mounts(tmpfs, again)).output
    assert line.split()[3].startswith("ro")
    assert "size=2048k" in line


def test_a_link_is_made_again(runner: Runner, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere")
    mount = {**bound(tmp_path / "link", "copy-symlink"), "destination": "/made"}
    outcome = runner.sh("readlink /made", root=rootfs, change=with_mounts(mount))
    assert outcome.output == "/nowhere\n"


def test_own_mappings_shift_a_volume(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    ids = [{"containerID": 0, "hostID": 5000, "size": 10}]
    change = with_mounts(bound(tmp_path, "idmap", uidMappings=ids, gidMappings=ids))
    assert runner.run("stat", "-c", "%u:%g", "/d/f", change=change).output == "5000:5000\n"


def test_idmap_without_any_mapping_is_an_error(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="idmap"):
        runner.plan("true", change=with_mounts(bound(tmp_path, "idmap")))


def test_mounts_are_listed_in_order_beside_a_shared_one(runner: Runner, tmp_path: Path) -> None:
    tmpfs = {"destination": "/later", "type": "tmpfs", "source": "t"}
    change = with_mounts({**tmpfs, "destination": "/first"}, bound(tmp_path, "shared"), tmpfs)
    points = [line.split()[4] for line in runner.run("cat", "/proc/self/mountinfo", change=change).lines]
    assert points.index("/first") < points.index("/d") < points.index("/later")


def test_a_file_system_that_cannot_be_shifted_is_named(runner: Runner) -> None:
    ids = [{"containerID": 0, "hostID": 5000, "size": 10}]
    with pytest.raises(InvalidConfig, match="/proc/sys/kernel lies on a file system"):
        runner.run("true", change=with_mounts(bound(Path("/proc/sys/kernel"), "idmap", uidMappings=ids, gidMappings=ids)))


@pytest.mark.skipif(bool(loopdisk.missing("ext4")), reason=loopdisk.missing("ext4"))
def test_a_read_only_mount_does_not_write_to_its_disk(runner: Runner, tmp_path: Path) -> None:
    """Not even as mounting does, which notes its time. The disk itself is read-only: whoever would write is refused."""
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 8 << 20)
    loopdisk.tool("mkfs.ext4", "-q", "-F", str(image))

    def change(*options: str) -> Any:
        def edit(config: dict[str, Any]) -> None:
            config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
            with_mounts({"destination": "/d", "type": "ext4", "source": device, "options": list(options)})(config)

        return edit

    with loopdisk.loop_device(image, "--read-only") as device:
        assert runner.run("ls", "/d", change=change("ro")).output == "lost+found\n"
        with pytest.raises(RuntimeFailed, match=r"(?i)read-only|denied"):
            runner.run("ls", "/d", change=change())
