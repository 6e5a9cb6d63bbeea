"""User namespaces: mapped ids, shifted layers and volumes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import plan as plans
from agent.runtime import userns
from agent.sys.mount import Mount
from tests.conformance.runtime.conftest import PARENT, RELEASE, Runner

pytestmark = pytest.mark.skipif(RELEASE < (5, 19), reason="overlay takes shifted layers from Linux 5.19 on")
BASE, SIZE = 200_000, 65_536
USERNS = (BASE, BASE, SIZE)


def shifted_plan(runner: Runner, tmp_path: Path, *args: str, change: Any = None) -> plans.Plan:
    upper, work = tmp_path / "container" / "upper", tmp_path / "container" / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    config = runner.plan(*args, userns=USERNS, change=change).config
    options = (f"lowerdir={runner.root}", f"upperdir={upper}", f"workdir={work}", "idmap")
    mounts = [Mount("overlay", "overlay", "", options)]
    return plans.compile(config, id=f"u{runner.count}", rootfs=mounts, cgroup_parent=PARENT)


def test_root_inside_is_nobody_outside(runner: Runner, tmp_path: Path) -> None:
    script = "id -u; cat /proc/self/uid_map; stat -c %u /bin /etc/passwd; echo x > /made; stat -c %u /made; echo up; sleep 1000"
    running = runner.start_plan(shifted_plan(runner, tmp_path, "sh", "-c", script))
    lines = [running.read_line() for _ in range(6)]
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(BASE), str(SIZE)]
    assert lines[2:5] == ["0", "0", "0"]
    assert os.stat(f"/proc/{running.init.pid}").st_uid == BASE
    # shifted, so what root wrote belongs to root's id on disk, and the shared layer was never changed
    assert (tmp_path / "container/upper/made").stat().st_uid == 0


def test_an_older_kernel_takes_the_layers_by_mount_alone(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EINVAL, "before Linux 6.13")

    monkeypatch.setattr(userns, "_by_descriptor", refused)
    script = "stat -c %u /bin /etc/passwd; echo x > /made; rm /etc/passwd; mv /home /moved; stat -c %u /made /moved;"
    script += " test -e /etc/passwd || echo gone"
    assert runner.start_plan(shifted_plan(runner, tmp_path, "sh", "-c", script)).wait().lines == ["0", "0", "0", "0", "gone"]
    assert (tmp_path / "container/upper/made").stat().st_uid == 0


def test_devices_work(runner: Runner, tmp_path: Path) -> None:
    plan = shifted_plan(runner, tmp_path, "sh", "-c", "head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null && echo null")
    assert [line.strip() for line in runner.start_plan(plan).wait().lines] == ["00 00 00 00", "null"]


def test_fences_hold(runner: Runner, tmp_path: Path) -> None:
    script = "cat /proc/interrupts; echo 1 > /proc/sys/kernel/printk; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
    lines = runner.start_plan(shifted_plan(runner, tmp_path, "sh", "-c", script)).wait().lines
    assert "Read-only" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["1", "2"]


def test_volume_of_a_closed_directory_plain_and_shifted(runner: Runner, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    for name in ("plain", "shifted"):
        (closed / name).mkdir(parents=True)
        (closed / name / "f").write_text(name)
        (closed / name / "f").chmod(0o600)
    closed.chmod(0o700)

    def change(config: dict[str, Any]) -> None:
        for name in ("plain", "shifted"):
            options = ["rbind", "idmap"] if name == "shifted" else ["rbind"]
            config["mounts"].append({"destination": f"/{name}", "type": "bind", "source": str(closed / name), "options": options})

    script = "stat -c %u /plain/f /shifted/f; cat /shifted/f; echo; cat /plain/f; touch /shifted/new"
    lines = runner.start_plan(shifted_plan(runner, tmp_path, "sh", "-c", script, change=change)).wait().lines
    assert lines[:3] == ["65534", "0", "shifted"]
    assert "Permission denied" in lines[3]
    assert (closed / "shifted/new").stat().st_uid == 0


def test_exec_and_terminal(runner: Runner, tmp_path: Path) -> None:
    running = runner.start_plan(shifted_plan(runner, tmp_path, "sleep", "1000"))
    outcome = running.exec("sh", "-c", "id -u; tty; cat /proc/self/uid_map", terminal=True)
    assert outcome.lines[:2] == ["0", "/dev/pts/0"]
    assert outcome.lines[2].split()[1] == str(BASE)


def test_joins_a_network_that_the_host_owns(runner: Runner, tmp_path: Path) -> None:
    holder = runner.start("sleep", "1000")
    path = f"/proc/{holder.init.pid}/ns/net"

    def change(config: dict[str, Any]) -> None:
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = path

    plan = shifted_plan(runner, tmp_path, "sh", "-c", "readlink /proc/self/ns/net; ls /sys/class/net; id -u", change=change)
    running = runner.start_plan(plan)
    assert running.wait().lines == [os.readlink(path), "lo", "0"]


def test_host_network(runner: Runner, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
        del config["linux"]["sysctl"]

    plan = shifted_plan(runner, tmp_path, "readlink", "/proc/self/ns/net", change=change)
    assert runner.start_plan(plan).wait().output.strip() == os.readlink("/proc/self/ns/net")
