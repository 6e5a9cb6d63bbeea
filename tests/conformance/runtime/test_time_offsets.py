"""config-linux.md, timeOffsets: what the clocks of a new time namespace are ahead of the host's."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.conftest import Runner

DAY = 86_400


def shifted(**offsets: dict[str, int]) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = offsets

    return change


def test_seconds_and_nanoseconds_are_in_the_kernel(runner: Runner) -> None:
    change = shifted(monotonic={"secs": DAY, "nanosecs": 5}, boottime={"secs": 7 * DAY})
    running = runner.start("sleep", "1000", change=change)
    lines = [line.split() for line in running.exec("cat", "/proc/self/timens_offsets").lines]
    assert lines == [["monotonic", str(DAY), "5"], ["boottime", str(7 * DAY), "0"]]


def test_the_program_and_an_exec_live_in_it(runner: Runner) -> None:
    running = runner.start("sh", "-c", "cat /proc/uptime; sleep 1000", change=shifted(boottime={"secs": 7 * DAY}))
    for line in (running.read_line(), running.exec("cat", "/proc/uptime").output):
        assert float(line.split()[0]) > time.clock_gettime(time.CLOCK_BOOTTIME) + 6 * DAY


def test_a_clock_may_be_behind(runner: Runner) -> None:
    change = shifted(boottime={"secs": -1})
    running = runner.start("sleep", "1000", change=change)
    assert "boottime           -1" in running.exec("cat", "/proc/self/timens_offsets").output


def test_the_clock_on_the_wall_has_no_offset(runner: Runner) -> None:
    with pytest.raises(InvalidConfig, match="realtime"):
        runner.plan("true", change=shifted(realtime={"secs": 1}))
