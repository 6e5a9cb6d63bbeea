"""CVE-2019-19921 and CVE-2025-52881: /proc is a link, or a volume lies over it, and what the runtime writes to
"/proc" goes elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import rootfs as building
from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner

NAME = "net/ipv4/ping_group_range"


def test_proc_behind_a_link_is_refused(runner: Runner, rootfs: Path) -> None:
    (rootfs / "proc").symlink_to("/tmp")
    with pytest.raises(RuntimeFailed, match="leads through a link"):
        runner.run("true", root=rootfs)


def test_without_the_guard_the_link_stays_the_images(runner: Runner, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (rootfs / "proc").symlink_to("/tmp")
    target_in = building.target_in

    def naive(root: int, path: bytes, directory: bool, plain: bool = False, **more: Any) -> int:
        return target_in(root, path, directory, plain=False, **more)

    monkeypatch.setattr(building, "target_in", naive)
    assert runner.run("readlink", "/proc", root=rootfs).output == "/tmp\n"  # whoever owns the image can point it elsewhere now


@pytest.mark.parametrize("place", ["/sys", "/sys/fs/cgroup"])
def test_other_kernel_filesystems_behind_a_link_are_refused(runner: Runner, rootfs: Path, place: str) -> None:
    if place == "/sys":
        (rootfs / "sys").symlink_to("/tmp")
    else:
        (rootfs / "elsewhere").mkdir()

        def change(config: dict[str, Any]) -> None:
            config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/sys"]

        (rootfs / "sys/fs").mkdir(parents=True)
        (rootfs / "sys/fs/cgroup").symlink_to("/elsewhere")
    with pytest.raises(RuntimeFailed, match="leads through a link"):
        runner.run("true", root=rootfs, change=change if place != "/sys" else None)


def write_by_path(root: Path) -> Any:
    """The naive step: whatever lies at /proc of the new root."""

    def write(sysctls: list[tuple[bytes, bytes]]) -> None:
        for path, value in sysctls:
            fd = os.open(bytes(root) + b"/proc/sys/" + path, os.O_WRONLY)
            os.write(fd, value)
            os.close(fd)

    return write


@pytest.mark.parametrize("naive", [False, True])
def test_sysctls_do_not_go_where_the_image_leads(
    runner: Runner, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """No procfs is mounted at all; the image's own /proc leads each sysctl to a file of the host."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    for name in ("net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start"):
        place = rootfs / "proc/sys" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(victim)

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/proc"]

    if naive:
        monkeypatch.setattr(building, "write_sysctls", write_by_path(rootfs))
    running = runner.start("sleep", "1000", root=rootfs, change=change)
    assert (victim.read_text() != "as it was") is naive
    # and it really was set: another container in the same network namespace looks
    seen = runner.run(
        "cat",
        f"/proc/sys/{NAME}",
        network=f"/proc/{running.init.pid}/ns/net",
        change=lambda config: config["linux"].pop("sysctl"),
    )
    assert (seen.output.split() == ["0", "2147483647"]) is not naive
