"""The counting of health checks, over plain processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.supervisor import health
from agent.supervisor.container import Container
from agent.supervisor.context import Context
from agent.supervisor.leases import LeaseFile, Leases
from agent.supervisor.ledger import Ledger
from agent.supervisor.loop import Loop
from agent.supervisor.processes import Processes
from agent.supervisor.record import Record, boot_id
from agent.supervisor.shims import Shims
from agent.supervisor.specification import Specification
from tests.unit.agent.supervisor.plain import PlainRuntime

MS = 1_000_000


class Watched:
    """A running container whose health events end the loop when `until` is reached."""

    def __init__(self, tmp_path: Path, check: dict[str, Any]) -> None:
        self.loop = Loop()
        self.statuses: list[str] = []
        self.until = ""
        ledger = Ledger(str(tmp_path), self.loop.later)
        processes = Processes(self.loop, ledger.commit)
        runtime, file = PlainRuntime("/x"), LeaseFile(str(tmp_path), boot_id())
        leases, shims = Leases(self.loop, file), Shims(processes, runtime, file)
        context = Context(
            self.loop, processes, runtime, str(tmp_path), self.publish, lambda _container: None, leases, shims, ledger
        )
        values = {
            "config": {"process": {"args": ["sleep", "60"]}},
            "rootfs": [],
            "log": {"driver": "none"},
            "restart": {},
            "open_stdin": False,
            "health": check,
        }
        (tmp_path / "c1").mkdir()
        spec = Specification.create(str(tmp_path / "c1"), values)
        self.container = Container(context, spec, Record(str(tmp_path / "c1"), {"id": "c1"}, ledger))
        self.errors: list[Exception | None] = []
        self.container.start(self.errors.append)
        assert self.errors == [None]

    def publish(self, event: dict[str, Any]) -> None:
        if event["kind"] == "health":
            self.statuses.append(event["container"]["health"]["status"])
            if self.statuses[-1] == self.until:
                self.loop.stop()

    def run(self, until: str) -> dict[str, Any]:
        self.until = until
        limit = self.loop.later(20, self.loop.stop)
        self.loop.run()
        limit.cancel()
        assert self.statuses[-1:] == [until]
        return self.container.record.health or {}

    def close(self) -> None:
        self.container.kill(9, False)
        self.loop.later(0.2, self.loop.stop)
        self.loop.run()
        self.container.release()
        self.container.context.ledger.close()
        self.loop.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Any]:
    made: list[Watched] = []

    def make(**check: Any) -> Watched:
        made.append(Watched(tmp_path, check))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_failures_count_up_to_the_limit(watched: Any) -> None:
    item = watched(Test=["CMD", "false"], Interval=10 * MS, Retries=3)
    found = item.run("unhealthy")
    assert (found["failing"], [entry["exit_code"] for entry in found["log"]]) == (3, [1, 1, 1])


def test_success_comes_back_and_five_results_are_kept(watched: Any, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    item = watched(Test=["CMD-SHELL", f"test -e {flag}"], Interval=10 * MS, Retries=7)
    found = item.run("unhealthy")
    assert (found["failing"], len(found["log"])) == (7, 5)
    flag.touch()
    found = item.run("healthy")
    assert found["failing"] == 0


def test_failures_in_the_start_period_do_not_count(watched: Any) -> None:
    item = watched(Test=["CMD", "false"], Interval=10 * MS, StartPeriod=300 * MS, StartInterval=20 * MS, Retries=1)
    begun = item.container.record.started_at
    item.run("unhealthy")
    assert time.time_ns() - begun >= 300 * MS


def test_output_is_kept_up_to_its_limit(watched: Any) -> None:
    item = watched(Test=["CMD", "head", "-c", "10000", "/dev/zero"], Interval=10 * MS)
    found = item.run("healthy")
    assert len(found["log"][0]["output"]) == health.OUTPUT


@pytest.mark.parametrize(
    "check",
    [{"Test": "true"}, {"Test": ["SHELL", "x"]}, {"Test": ["CMD"]}, {"Interval": -1}, {"Retries": "3"}, {"Timeout": True}],
)
def test_checks_that_cannot_work(check: dict[str, Any]) -> None:
    with pytest.raises(health.InvalidHealthCheck):
        health.validate(check)
