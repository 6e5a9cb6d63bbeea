"""What only a cgroup v2 that governs everything can show: `make test-v2` runs it in a guest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import Cgroup, hierarchies
from agent.runtime.errors import CgroupRefused, InvalidConfig
from tests.conformance.runtime.conftest import PARENT, Runner, Running, wait_for
from tests.conformance.runtime.test_userns import USERNS

pytestmark = pytest.mark.skipif(
    "memory" not in hierarchies().v2_controllers or bool(hierarchies().v1), reason="cgroup v1 has controllers here"
)


def started(runner: Runner, *args: str, **resources: Any) -> Running:
    return runner.start(*(args or ("sleep", "1000")), change=lambda config: config["linux"]["resources"].update(resources))


def value(running: Running, file: str) -> str:
    return Path(f"{hierarchies().v2}{running.plan.cgroup_path}/{file}").read_text().strip()


def test_every_limit_is_in_its_file(runner: Runner) -> None:
    running = started(
        runner,
        memory={"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        cpu={"shares": 1024, "quota": 20000, "period": 50000, "burst": 5000, "cpus": "0", "mems": "0"},
        pids={"limit": 3},
        blockIO={"weight": 500},
        hugepageLimits=[{"pageSize": "2MB", "limit": 4 << 20}],
        unified={"memory.high": str(60 << 20)},
    )
    expected = {
        "memory.max": str(64 << 20), "memory.swap.max": str(32 << 20), "memory.low": str(32 << 20), "memory.high": str(60 << 20),
        "cpu.weight": "100", "cpu.max": "20000 50000", "cpu.max.burst": "5000", "cpuset.cpus": "0", "cpuset.mems": "0",
        "pids.max": "3", "hugetlb.2MB.max": str(4 << 20), "hugetlb.2MB.rsvd.max": str(4 << 20),
    }  # fmt: skip
    assert {file: value(running, file) for file in expected} == expected
    weights = [
        file for file in ("io.weight", "io.bfq.weight") if os.path.exists(f"/sys/fs/cgroup{running.plan.cgroup_path}/{file}")
    ]
    assert weights
    assert value(running, weights[-1]) in ("default 4950", "default 500")


def test_idle(runner: Runner) -> None:
    assert value(started(runner, cpu={"idle": 1, "shares": 512}), "cpu.idle") == "1"


def test_quota_and_burst_move_together(runner: Runner) -> None:
    running = started(runner, cpu={"quota": 20000, "period": 50000, "burst": 20000})
    running.cgroup.update({"cpu": {"quota": 5000, "period": 50000, "burst": 5000}})  # down: the burst has to go first
    assert (value(running, "cpu.max"), value(running, "cpu.max.burst")) == ("5000 50000", "5000")
    running.cgroup.update({"cpu": {"quota": 40000, "period": 50000, "burst": 40000}})  # up: the quota has to go first
    assert (value(running, "cpu.max"), value(running, "cpu.max.burst")) == ("40000 50000", "40000")


def test_no_limit_of_memory_is_none_of_swap(runner: Runner) -> None:
    running = started(runner, memory={"limit": 64 << 20, "swap": 64 << 20})
    running.cgroup.update({"memory": {"limit": -1}})
    assert (value(running, "memory.max"), value(running, "memory.swap.max")) == ("max", "max")


@pytest.mark.parametrize("resources", [{"cpu": {"realtimeRuntime": 1000}}, {"blockIO": {"leafWeight": 100}}])
def test_what_version_2_cannot_say_is_refused(runner: Runner, resources: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="no counterpart in cgroup v2"):
        started(runner, **resources)


def test_unified_names_the_file_or_controller_that_is_missing(runner: Runner) -> None:
    with pytest.raises(CgroupRefused, match=r"memory\.nothing"):
        started(runner, unified={"memory.nothing": "1"})
    with pytest.raises(CgroupRefused, match="no nothing controller"):
        started(runner, unified={"nothing.max": "1"})


def test_out_of_memory_and_pressure_are_told(runner: Runner) -> None:
    running = started(runner, "sh", "-c", "x=$(head -c 64m /dev/zero | tr '\\0' x)", memory={"limit": 24 << 20, "swap": 24 << 20})
    running.wait()
    assert running.cgroup.oom_count() >= 1
    pressure = running.cgroup.stats()["pressure"]
    assert set(pressure) == {"cpu", "memory", "io"}
    assert pressure["memory"]["some"]["total"] > 0


def test_a_device_rule_changes_without_a_gap(runner: Runner) -> None:
    script = "while ! [ -e /tmp/go ]; do head -c 1 /dev/null || echo lost; done; head -c 1 /dev/k >/tmp/got && echo opened"

    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [{"path": "/dev/k", "type": "c", "major": 1, "minor": 5}]
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []})

    running = runner.start("sh", "-c", script, change=change)
    for allow in (False, True) * 5:
        running.cgroup.update({"devices": [{"allow": allow, "type": "c", "major": 10, "minor": 200, "access": "rwm"}]})
    Path(f"/proc/{running.init.pid}/root/tmp/go").touch()
    assert running.wait().lines == ["opened"]


def test_cgroup_that_is_frozen_is_refused_and_kept(runner: Runner) -> None:
    plan = runner.plan("true")
    frozen = Cgroup(f"{PARENT}/frozen")
    frozen.create()
    frozen.freeze()
    plan.cgroup_path = frozen.path
    with pytest.raises(CgroupRefused, match="frozen"):
        runner.start_plan(plan)
    frozen.thaw()
    assert frozen.remove()


def test_delegated_cgroup_belongs_to_the_containers_user(runner: Runner, busybox_root: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
        config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]})

    running = runner.start("sh", "-c", "mkdir /sys/fs/cgroup/mine && echo made; sleep 1000", userns=USERNS, change=change)
    assert running.read_line() == "made"
    directory = Path(f"{hierarchies().v2}{running.plan.cgroup_path}")
    owned = {path.name for path in directory.iterdir() if path.stat().st_uid == USERNS[0]}
    delegated = set(Path("/sys/kernel/cgroup/delegate").read_text().split())
    assert owned == {name for name in delegated if (directory / name).exists()} | {"mine"}
    assert directory.stat().st_uid == USERNS[0]
    (directory / "cgroup.kill").write_text("1")
    wait_for(lambda: running.cgroup.pids() == [], "the deaths")


def test_without_a_writable_mount_the_host_keeps_it(runner: Runner) -> None:
    running = runner.start("sleep", "1000", userns=USERNS)
    directory = Path(f"{hierarchies().v2}{running.plan.cgroup_path}")
    assert {path.stat().st_uid for path in (directory, *directory.iterdir())} == {0}
