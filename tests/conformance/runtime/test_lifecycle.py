"""runtime.md, Lifecycle and Operations: what each operation does, and refuses without having done anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import Cgroup
from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import wait_for


def ended(command: Command, id: str = "c1") -> bool:
    return command.status(id) == "stopped"


def with_output(command: Command, tmp_path: Path, *args: str) -> dict[str, Any]:
    """A container with /out, a directory of the host."""
    config = command.configure(*args)
    (tmp_path / "out").mkdir(exist_ok=True)
    config["mounts"].append({"destination": "/out", "type": "bind", "source": str(tmp_path / "out"), "options": ["bind"]})
    command.write(config)
    return config


def test_create_applies_everything_but_the_program(command: Command, tmp_path: Path) -> None:
    with_output(command, tmp_path, "sh", "-c", "echo ran > /out/ran")
    command.create("c1")
    pid = command.pid("c1")
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert " /out " in Path(f"/proc/{pid}/mountinfo").read_text()
    assert Cgroup(f"{command.parent}/c1").pids() == [pid]
    assert not (tmp_path / "out/ran").exists()
    command("start", "c1")
    wait_for(lambda: ended(command), "the program")
    assert (tmp_path / "out/ran").read_text() == "ran\n"


def test_an_id_is_taken_until_it_is_deleted(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    pid = command.pid("c1")
    assert "already exists" in command("create", "-b", str(command.bundle), "c1", check=1).stdout
    assert (command.status("c1"), command.pid("c1")) == ("created", pid)
    command("delete", "-f", "c1")
    command.create("c1")
    assert command.status("c1") == "created"


@pytest.mark.parametrize("operation", ["create", "start", "kill", "delete"])
def test_an_operation_needs_an_id(command: Command, operation: str) -> None:
    assert "argument" in command(operation, check=1).stdout


@pytest.mark.parametrize("operation", ["start", "kill", "delete"])
def test_an_operation_on_nobody(command: Command, operation: str) -> None:
    assert "container does not exist" in command(operation, "nobody", check=1).stdout


def test_start_once_and_never_again(command: Command, tmp_path: Path) -> None:
    with_output(command, tmp_path, "sh", "-c", "echo ran >> /out/ran")
    command.create("c1")
    command("start", "c1")
    wait_for(lambda: ended(command), "the program")
    assert "stopped" in command("start", "c1", check=1).stdout
    assert (tmp_path / "out/ran").read_text() == "ran\n"


def test_start_without_process_is_an_error(command: Command) -> None:
    config = command.configure("true")
    del config["process"]
    command.write(config)
    command.create("c1")
    assert command.status("c1") == "created"
    assert "process is missing" in command("start", "c1", check=1).stdout
    wait_for(lambda: ended(command), "the end of what cannot be started")
    command("delete", "c1")


def test_kill_reaches_a_created_one_and_a_running_one_and_no_other(command: Command, tmp_path: Path) -> None:
    with_output(
        command, tmp_path, "sh", "-c", "trap 'echo got > /out/got; exit 0' USR1; touch /out/up; while :; do sleep 0.01; done"
    )
    command.create("c1")
    command("kill", "c1", "KILL")
    wait_for(lambda: ended(command), "the end of the created one")
    assert "not running" in command("kill", "c1", "KILL", check=1).stdout
    command.create("c2")
    command("start", "c2")
    wait_for((tmp_path / "out/up").exists, "the trap")
    command("kill", "c2", "USR1")
    wait_for((tmp_path / "out/got").exists, "the signal")


def test_signals_by_name_and_number(command: Command, tmp_path: Path) -> None:
    script = "trap 'echo got' USR1; echo up; while :; do sleep 0.01; done"
    with_output(command, tmp_path, "sh", "-c", f"exec > /out/said; {script}")
    command.create("c1")
    command("start", "c1")
    said = tmp_path / "out/said"
    wait_for(lambda: said.exists() and said.read_text() == "up\n", "the trap")
    for count, word in enumerate(("USR1", "SIGUSR1", "usr1", "10"), 1):
        command("kill", "c1", word)
        wait_for(lambda count=count: said.read_text() == "up\n" + count * "got\n", word)


def test_no_such_signal(command: Command) -> None:
    command.start("c1", "sleep", "1000")
    assert "signal" in command("kill", "c1", "NOSUCH", check=1).stdout
    assert command.status("c1") == "running"


@pytest.mark.parametrize("started", [False, True])
def test_delete_of_what_is_not_stopped_has_no_effect(command: Command, started: bool) -> None:
    """runc and crun delete a created one; the spec says MUST generate an error, and nobody who drives them relies on it: podman
    and the shims of containerd say --force, or kill first."""
    command.configure("sleep", "1000")
    command.create("c1")
    if started:
        command("start", "c1")
    status = "running" if started else "created"
    assert f"not stopped: {status}" in command("delete", "c1", check=1).stdout
    assert command.status("c1") == status
    assert Cgroup(f"{command.parent}/c1").pids() == [command.pid("c1")]
    command("delete", "--force", "c1")
    assert command("list", "-q").stdout == ""


def test_delete_takes_what_create_made(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    pid = command.pid("c1")
    command("kill", "c1", "KILL")
    wait_for(lambda: ended(command), "the end")
    command("delete", "c1")
    assert not Cgroup(f"{command.parent}/c1").exists()
    assert not os.path.exists(command.state / "c1")
    assert str(command.bundle) not in Path("/proc/self/mountinfo").read_text()
    assert not os.path.exists(f"/proc/{pid}/ns/mnt")
    assert (command.bundle / "rootfs/bin/busybox").exists()


def hooking(config: dict[str, Any], point: str, script: str) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    config.setdefault("hooks", {}).setdefault(point, []).append(hook)


def test_poststop_hooks_run_before_delete_returns_and_their_failure_is_a_warning(command: Command, tmp_path: Path) -> None:
    config = command.configure("true")
    hooking(config, "poststop", f"cat > {tmp_path}/first; exit 3")
    hooking(config, "poststop", f"touch {tmp_path}/second")
    command.write(config)
    command.create("c1")
    command("start", "c1")
    wait_for(lambda: ended(command), "the program")
    assert not (tmp_path / "first").exists()
    assert "level=warning" in command("delete", "c1").stdout
    state = json.loads((tmp_path / "first").read_text())
    assert (state["id"], state["status"]) == ("c1", "stopped")
    assert (tmp_path / "second").exists()
    assert command("list", "-q").stdout == ""


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_at_create_leaves_nothing_and_goes_on_with_poststop(
    command: Command, tmp_path: Path, point: str
) -> None:
    config = command.configure("true")
    hooking(config, point, "exit 3")
    hooking(config, "poststop", f"touch {tmp_path}/stopped")
    command.write(config)
    assert f"hook {point}" in command("create", "-b", str(command.bundle), "box", check=1).stdout
    assert (tmp_path / "stopped").exists()
    assert command("list", "-q").stdout == ""
    assert not Cgroup(f"{command.parent}/box").exists()


@pytest.mark.parametrize("point", ["startContainer", "poststart"])
def test_a_hook_that_fails_at_start_ends_the_container(command: Command, tmp_path: Path, point: str) -> None:
    config = command.configure("sleep", "1000")
    hooking(config, point, "exit 3")
    hooking(config, "poststop", f"touch {tmp_path}/stopped")
    command.write(config)
    command.create("c1")
    assert f"hook {point}" in command("start", "c1", check=1).stdout
    assert (tmp_path / "stopped").exists()
    assert command("list", "-q").stdout == ""
    assert not Cgroup(f"{command.parent}/c1").exists()
