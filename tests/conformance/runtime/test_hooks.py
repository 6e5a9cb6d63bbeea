"""The six hook points: order, namespaces, state on standard input, failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner

POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart")


def recording(tmp_path: Path, points: tuple[str, ...] = POINTS) -> Any:
    """Each hook appends its point, its state and its mount namespace to a file named after it; startContainer runs inside."""

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {}
        for point in points:
            where = "/out" if point == "startContainer" else str(tmp_path)
            shell = "/bin/sh"
            script = f"cat > {where}/{point}; readlink /proc/self/ns/mnt > {where}/{point}.ns; echo {point} >> {where}/order"
            config["hooks"][point] = [{"path": shell, "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]
        config["mounts"].append({"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["rbind"]})

    return change


def test_order_and_state(runner: Runner, tmp_path: Path) -> None:
    runner.run("sh", "-c", "echo process >> /out/order; sleep 1000 &", change=recording(tmp_path))
    order = (tmp_path / "order").read_text().split()
    assert order.index("startContainer") < order.index("process")
    assert [point for point in order if point != "process"] == list(POINTS)
    for point in POINTS:
        state = json.loads((tmp_path / point).read_text())
        assert state["id"].startswith("c")
        assert state["status"] == ("running" if point == "poststart" else "created"), point
        assert state["pid"] > 0


def test_pid_is_the_one_that_the_hooks_namespace_knows(runner: Runner, tmp_path: Path) -> None:
    running = runner.start("sleep", "1000", change=recording(tmp_path))
    for point in POINTS:
        inside = point in ("createContainer", "startContainer")
        assert json.loads((tmp_path / point).read_text())["pid"] == (1 if inside else running.init.pid), point


def test_namespaces(runner: Runner, tmp_path: Path) -> None:
    runner.run("sh", "-c", "readlink /proc/self/ns/mnt > /out/inside", change=recording(tmp_path))
    inside = (tmp_path / "inside").read_text()
    for point in POINTS:
        same = (tmp_path / f"{point}.ns").read_text() == inside
        assert same is (point in ("createContainer", "startContainer")), point


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_failure_stops_the_container(runner: Runner, point: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {point: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]}

    with pytest.raises(RuntimeFailed, match=f"{point}.*exit status 3"):
        runner.run("sleep", "1000", change=change)
    for running in runner.running:
        assert running.wait().status != 0


def test_timeout_kills(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}

    with pytest.raises(RuntimeFailed, match="longer than its timeout"):
        runner.run("true", change=change)
