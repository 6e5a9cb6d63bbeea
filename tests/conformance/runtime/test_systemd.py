"""Containers in scopes of a real systemd. The guest of `make test-v2` has one as process 1."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import CgroupRefused
from agent.runtime.plan import Plan
from tests.conformance.runtime.conftest import Runner, wait_for

pytestmark = pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="systemd is not process 1 here")


def scoped(runner: Runner, *args: str, change: Any = None) -> tuple[Plan, str]:
    """A plan for systemd, and its unit's name."""
    plan = runner.plan(*args, change=change)
    name = f"{os.getpid()}x{runner.count}"
    plan.cgroup_path = f"wharftest-inner.slice:wharf:{name}"
    return plan, f"wharf-{name}.scope"


def shown(unit: str, *properties: str) -> dict[str, str]:
    done = subprocess.run(
        ["systemctl", "show", unit, f"--property={','.join(properties)}"], capture_output=True, text=True, check=True
    )
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def limits(config: dict[str, Any]) -> None:
    config["linux"]["resources"].update(
        {"memory": {"limit": 64 << 20}, "pids": {"limit": 3}, "cpu": {"quota": 15000, "period": 100000}}
    )


def test_container_runs_in_its_scope_with_its_limits(runner: Runner) -> None:
    plan, unit = scoped(runner, "sleep", "1000", change=limits)
    running = runner.start_plan(plan)
    place = f"/wharftest.slice/wharftest-inner.slice/{unit}"
    assert Path(f"/proc/{running.init.pid}/cgroup").read_text() == f"0::{place}\n"
    names = ("ActiveState", "Slice", "Delegate", "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec")
    assert shown(unit, *names) == {
        "ActiveState": "active", "Slice": "wharftest-inner.slice", "Delegate": "yes", "MemoryMax": str(64 << 20), "TasksMax": "3",
        "CPUQuotaPerSecUSec": "150ms",
    }  # fmt: skip
    directory = Path("/sys/fs/cgroup" + place)
    assert running.cgroup.pids() == [running.init.pid]  # the placeholder is gone
    assert (directory / "pids.max").read_text() == "3\n"
    assert (directory / "memory.max").read_text() == f"{64 << 20}\n"


def test_update_reaches_systemd_and_the_kernel(runner: Runner) -> None:
    plan, unit = scoped(runner, "sleep", "1000", change=limits)
    running = runner.start_plan(plan)
    running.cgroup.update({"memory": {"limit": 96 << 20}, "pids": {"limit": 77}})
    assert shown(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(96 << 20), "TasksMax": "77"}
    assert running.cgroup.stats()["memory"]["limit"] == 96 << 20
    subprocess.run(["systemctl", "daemon-reload"], check=True)  # when systemd writes again what it knows
    assert running.cgroup.stats()["memory"]["limit"] == 96 << 20


def test_devices_stay_fenced_after_a_reload(runner: Runner) -> None:
    script = "while ! [ -e /tmp/go ]; do sleep 0.01; done; head -c 1 /dev/k && echo opened"
    plan, _ = scoped(runner, "sh", "-c", script, change=with_kmsg)
    running = runner.start_plan(plan)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    Path(f"/proc/{running.init.pid}/root/tmp/go").touch()
    assert "Operation not permitted" in running.wait().output


def with_kmsg(config: dict[str, Any]) -> None:
    config["linux"]["devices"] = [{"path": "/dev/k", "type": "c", "major": 1, "minor": 11}]
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []})


def test_pause_kill_and_nothing_is_left(runner: Runner) -> None:
    plan, unit = scoped(runner, "sleep", "1000")
    running = runner.start_plan(plan)
    running.cgroup.freeze()
    assert running.cgroup.frozen()
    running.cgroup.thaw()
    running.end()
    runner.running.remove(running)
    wait_for(lambda: shown(unit, "ActiveState")["ActiveState"] == "inactive", "the scope's end")
    assert not running.cgroup.exists()


def test_a_name_in_use_is_refused_and_its_holder_untouched(runner: Runner) -> None:
    plan, unit = scoped(runner, "sleep", "1000")
    runner.start_plan(plan)
    other = runner.plan("true")
    other.cgroup_path = plan.cgroup_path
    with pytest.raises(CgroupRefused, match="already"):
        runner.start_plan(other)
    assert shown(unit, "ActiveState") == {"ActiveState": "active"}
