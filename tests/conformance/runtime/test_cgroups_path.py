"""config-linux.md, cgroupsPath: where a container's cgroup is, in every hierarchy that is mounted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import Cgroup, hierarchies
from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import PARENT, Runner, Running


def at(path: str) -> Any:
    return lambda config: config["linux"].update(cgroupsPath=path)


def places(running: Running) -> set[str]:
    """The container's cgroup as the host sees it, of every hierarchy that the runtime uses."""
    lines = Path(f"/proc/{running.init.pid}/cgroup").read_text().splitlines()
    tree = hierarchies()
    kept = [line.split(":", 2) for line in lines]
    return {path for _, names, path in kept if not names or any(name in tree.v1 for name in names.split(",")) or "name=" in names}


def test_absolute_is_below_every_mount_point(runner: Runner) -> None:
    running = runner.start("sleep", "1000", change=at(f"{PARENT}/a/b"))
    assert places(running) == {f"{PARENT}/a/b"}
    running.end()
    runner.running.remove(running)
    assert Cgroup(f"{PARENT}/a").remove()


def test_relative_is_the_same_place_each_time(runner: Runner) -> None:
    first = runner.start("sleep", "1000", change=at("named"))
    place = places(first)
    first.end()
    runner.running.remove(first)
    assert places(runner.start("sleep", "1000", change=at("named"))) == place == {f"{PARENT}/named"}


def test_absent_each_has_its_own(runner: Runner) -> None:
    first, second = runner.start("sleep", "1000"), runner.start("sleep", "1000")
    assert not places(first) & places(second)


@pytest.mark.parametrize("path", ["/../x", "/a/../../x", "../x", "/"])
def test_outside_or_the_root_itself_is_refused(runner: Runner, path: str) -> None:
    with pytest.raises(InvalidConfig):
        runner.start("true", change=at(path))


def test_what_the_container_did_not_make_stays(command: Command) -> None:
    """runtime.md, delete: a cgroup above, and another's beside."""
    command.configure("sleep", "1000")
    command.create("c1")
    command.create("c2")
    command("delete", "-f", "c1")
    assert not Cgroup(f"{command.parent}/c1").exists()
    assert Cgroup(f"{command.parent}/c2").pids() == [command.pid("c2")]
    assert os.path.isdir(hierarchies().mount_points()[0] + command.parent)
