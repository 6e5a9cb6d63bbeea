"""config-linux.md, namespaces: new, inherited, joined by path; each of the eight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner

FILES = {
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "uts": "uts",
    "ipc": "ipc",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}


def _link(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def given(kinds: dict[str, str]) -> Any:
    """The default configuration with these namespaces by path; "-" leaves one out, "" asks for a new one."""

    def change(config: dict[str, Any]) -> None:
        entries = {entry["type"]: entry for entry in config["linux"]["namespaces"]}
        for kind, path in kinds.items():
            entries[kind] = {"type": kind, "path": path}
        config["linux"]["namespaces"] = [
            {key: value for key, value in entry.items() if value} for entry in entries.values() if entry.get("path") != "-"
        ]
        # what the defaults set belongs to namespaces that this container may not have
        config["linux"].pop("sysctl", None)
        config["hostname"] = ""

    return change


@pytest.mark.parametrize("kind", ["mount", "pid", "network", "uts", "ipc", "cgroup", "time"])
def test_new(runner: Runner, kind: str) -> None:
    running = runner.start("sleep", "1000", change=given({kind: ""}))
    assert _link(running.init.pid, kind) != _link("self", kind)


@pytest.mark.parametrize("kind", ["mount", "pid", "network", "uts", "ipc", "cgroup", "user", "time"])
def test_inherited_when_it_is_not_named(runner: Runner, kind: str) -> None:
    running = runner.start("sleep", "1000", change=given({kind: "-"}))
    assert _link(running.init.pid, kind) == _link("self", kind)


@pytest.mark.parametrize("kind", ["pid", "network", "uts", "ipc", "cgroup", "time"])
def test_joined_by_path(runner: Runner, kind: str) -> None:
    holder = runner.start("sleep", "1000", change=given({"time": ""}))
    running = runner.start("sleep", "1000", change=given({kind: f"/proc/{holder.init.pid}/ns/{FILES[kind]}"}))
    assert _link(running.init.pid, kind) == _link(holder.init.pid, kind) != _link("self", kind)
    others = {other for other in FILES if other not in (kind, "user", "time")}
    assert all(_link(running.init.pid, other) != _link(holder.init.pid, other) for other in others)


def test_joined_all_at_once(runner: Runner) -> None:
    """Everything of another container but its root."""
    holder = runner.start("sleep", "1000", change=given({"time": ""}))
    kinds = ("pid", "network", "uts", "ipc", "cgroup", "time")
    running = runner.start(
        "sh", "-c", "ps; sleep 1000", change=given({kind: f"/proc/{holder.init.pid}/ns/{FILES[kind]}" for kind in kinds})
    )
    assert all(_link(running.init.pid, kind) == _link(holder.init.pid, kind) for kind in kinds)
    assert running.exec("sh", "-c", "ps | grep -c 'sleep 1000'").output >= "2"


def test_a_mount_namespace_by_path(runner: Runner) -> None:
    """Its mounts stay what they are: ours are built beside them."""
    holder = runner.start("sleep", "1000")
    path = f"/proc/{holder.init.pid}/ns/mnt"
    before = Path(f"/proc/{holder.init.pid}/mountinfo").read_text()
    # the root is found by the runtime, whose mount namespace is another
    running = runner.start("sleep", "1000", change=given({"mount": path}))
    assert _link(running.init.pid, "mount") == _link(holder.init.pid, "mount")
    assert Path(f"/proc/{holder.init.pid}/mountinfo").read_text() == before
    assert running.exec("readlink", "/proc/self/ns/mnt").output.strip() == _link(holder.init.pid, "mount")


@pytest.mark.parametrize("whose", ["the caller's", "another container's"])
def test_a_root_in_others_mounts_is_whole(runner: Runner, tmp_path: Path, whose: str) -> None:
    """All that a root is made of, and none of it where others see it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "word").write_text("kept")
    holder = runner.start("sleep", "1000")
    namespace = f"/proc/{holder.init.pid}/ns/mnt" if whose == "another container's" else "-"

    def change(config: dict[str, Any]) -> None:
        given({"mount": namespace})(config)
        config["mounts"] += [
            {"destination": "/plain", "type": "bind", "source": str(volume), "options": ["rbind", "rslave"]},
            {"destination": "/closed", "type": "bind", "source": str(volume), "options": ["bind", "ro", "unbindable"]},
            {"destination": "/plain/below", "type": "tmpfs", "source": "tmpfs"},
        ]
        config["linux"]["maskedPaths"] = ["/etc/passwd"]
        config["linux"]["readonlyPaths"] = ["/plain/below"]
        config["root"]["readonly"] = True

    (volume / "below").mkdir()
    before = [Path(f"/proc/{pid}/mountinfo").read_text() for pid in ("self", holder.init.pid)]
    script = "cat /plain/word /closed/word /etc/passwd; echo; touch /plain/made; touch /closed/no /plain/below/no /no"
    running = runner.start("sh", "-c", f"({script}) 2>&1; echo end; sleep 1000", change=change)
    lines = [running.read_line() for _ in range(5)]
    assert (lines[0], lines[4]) == ("keptkept", "end")
    assert all("Read-only file system" in line for line in lines[1:4])
    assert (volume / "made").exists()
    assert [Path(f"/proc/{pid}/mountinfo").read_text() for pid in ("self", holder.init.pid)] == before
    seen = running.exec("sh", "-c", "cat /closed/word; echo; ls /dev/pts; cat /etc/passwd; ls /sys/fs/cgroup").lines
    assert seen[:2] == ["kept", "ptmx"]
    assert {"cgroup.procs"} <= set(seen[2:]) or {"memory", "pids"} <= set(seen[2:])  # its own cgroup: v2, or v1's hierarchies


def test_a_terminal_in_others_mounts(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        given({"mount": "-"})(config)
        config["process"]["terminal"] = True

    assert runner.start("tty", change=change).wait().output.strip() in ("/dev/console", "/dev/pts/0")


@pytest.mark.parametrize(
    ("kind", "other"), [("network", "uts"), ("pid", "net"), ("ipc", "mnt"), ("uts", "cgroup"), ("cgroup", "ipc")]
)
def test_a_path_of_another_type_is_an_error(runner: Runner, kind: str, other: str) -> None:
    with pytest.raises(RuntimeFailed, match="namespaces: setns: Invalid argument"):
        runner.start("true", change=given({kind: f"/proc/self/ns/{other}"}))


def test_a_path_that_is_no_namespace_is_an_error(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeFailed, match="namespaces"):
        runner.start("true", change=given({"network": str(tmp_path / "file")}))
    with pytest.raises(RuntimeFailed, match=r"absent cannot be opened: No such file"):
        runner.start("true", change=given({"network": str(tmp_path / "absent")}))
