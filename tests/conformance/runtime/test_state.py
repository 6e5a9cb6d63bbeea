"""runtime.md, State and `state`: every member, in every status."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import wait_for


def told(command: Command, id: str = "c1") -> dict[str, Any]:
    state: dict[str, Any] = json.loads(command("state", id).stdout)
    return state


def test_each_status_has_its_members(command: Command) -> None:
    config = command.configure("sleep", "1000")
    command.create("c1")
    created = told(command)
    assert created["ociVersion"].split(".")[0] == "1"
    assert (created["id"], created["status"]) == ("c1", "created")
    assert created["bundle"] == str(command.bundle)  # absolute
    assert created["annotations"] == config["annotations"]
    # the pid is the one that the runtime's namespace knows, and stays
    assert os.path.exists(f"/proc/{created['pid']}")
    command("start", "c1")
    assert told(command) == {**created, "status": "running"}
    command("pause", "c1")
    assert told(command) == {**created, "status": "paused"}
    command("resume", "c1")
    command("kill", "c1", "KILL")
    wait_for(lambda: told(command)["status"] == "stopped", "the end")
    assert told(command) == {**created, "status": "stopped", "pid": 0}


def test_a_bundle_named_relatively_is_told_absolutely(command: Command) -> None:
    command.configure("sleep", "1000")
    config = json.loads((command.bundle / "config.json").read_text())
    config["linux"]["cgroupsPath"] = f"{command.parent}/c1"
    command.write(config)
    command.ids.append("c1")
    quiet = subprocess.DEVNULL
    command("create", "-b", command.bundle.name, "c1", cwd=command.bundle.parent, stdout=quiet, stderr=quiet)
    assert told(command)["bundle"] == str(command.bundle)


def test_without_an_id_and_of_nobody(command: Command) -> None:
    assert "exactly 1 argument" in command("state", check=1).stdout
    assert "container does not exist" in command("state", "nobody", check=1).stdout


@pytest.mark.parametrize("id", ["", "..", "a/b", "a\nb"])
def test_an_id_that_is_none(command: Command, id: str) -> None:
    command.configure("true")
    assert "is not valid" in command("create", "-b", str(command.bundle), id, check=1).stdout
    assert command("list", "-q").stdout == ""
