"""config-linux.md, resources: each limit is in its file of each controller that is mounted, v1 or v2; what is not, is an error.

What the limits do is in test_limits, cgroup v2 alone in test_unified.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import hierarchies
from agent.runtime.errors import CgroupRefused, InvalidConfig
from tests.conformance.runtime.conftest import Runner, Running
from tests.conformance.runtime.test_limits import file_of, limited

MEGABYTE = 1 << 20


def _held(running: Running, controller: str, v1: str, v2: str) -> str:
    tree = hierarchies()
    if controller not in tree.v1 and controller not in tree.v2_controllers:
        pytest.skip(f"no {controller} controller is mounted")
    file = file_of(running, controller, v1, v2)
    if not file.name:
        pytest.skip(f"this version of cgroups has no such limit of {controller}")
    if not file.exists():
        pytest.skip(f"the kernel has no {file.name}")
    return file.read_text().strip()


@pytest.mark.parametrize(
    ("section", "key", "value", "controller", "v1", "shown1", "v2", "shown2"),
    [
        ("memory", "limit", 64 * MEGABYTE, "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
        ("memory", "limit", -1, "memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max"),
        ("memory", "reservation", 32 * MEGABYTE, "memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"),
        ("memory", "swappiness", 7, "memory", "memory.swappiness", "7", "", ""),
        ("memory", "kernelTCP", 8 * MEGABYTE, "memory", "memory.kmem.tcp.limit_in_bytes", "8388608", "", ""),
        ("cpu", "shares", 512, "cpu", "cpu.shares", "512", "cpu.weight", "59"),
        ("cpu", "period", 50_000, "cpu", "cpu.cfs_period_us", "50000", "cpu.max", "max 50000"),
        ("cpu", "quota", 20_000, "cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000"),
        ("cpu", "idle", 1, "cpu", "cpu.idle", "1", "cpu.idle", "1"),
        ("cpu", "cpus", "0", "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
        ("cpu", "mems", "0", "cpuset", "cpuset.mems", "0", "cpuset.mems", "0"),
        ("pids", "limit", 77, "pids", "pids.max", "77", "pids.max", "77"),
        ("pids", "limit", -1, "pids", "pids.max", "max", "pids.max", "max"),
    ],
)  # fmt: skip
def test_one_limit(
    runner: Runner, section: str, key: str, value: Any, controller: str, v1: str, shown1: str, v2: str, shown2: str
) -> None:
    if controller not in hierarchies().v1 and not v2:
        pytest.skip(f"cgroup v2 has no counterpart of {section}.{key}")
    running = runner.start("sleep", "1000", change=limited(**{section: {key: value}}))
    assert _held(running, controller, v1, v2) == (shown1 if controller in hierarchies().v1 else shown2)


def test_memory_and_its_sum_with_swap(runner: Runner) -> None:
    change = limited(memory={"limit": 64 * MEGABYTE, "swap": 96 * MEGABYTE})
    running = runner.start("sleep", "1000", change=change)
    held = _held(running, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
    assert int(held) == (96 if "memory" in hierarchies().v1 else 32) * MEGABYTE


def test_no_oom_killer(runner: Runner) -> None:
    if "memory" not in hierarchies().v1:
        pytest.skip("cgroup v2 has no counterpart of memory.disableOOMKiller")
    running = runner.start("sleep", "1000", change=limited(memory={"limit": 64 * MEGABYTE, "disableOOMKiller": True}))
    assert "oom_kill_disable 1" in _held(running, "memory", "memory.oom_control", "")


def test_burst_of_a_quota(runner: Runner) -> None:
    running = runner.start("sleep", "1000", change=limited(cpu={"quota": 20_000, "period": 50_000, "burst": 7000}))
    assert _held(running, "cpu", "cpu.cfs_burst_us", "cpu.max.burst") == "7000"


def _disk() -> str:
    """Number of a whole disk, which is what can be throttled."""
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "ram", "zram")):
            return Path("/sys/block", name, "dev").read_text().strip()
    pytest.skip("this machine has no block device")


@pytest.mark.parametrize(
    ("key", "v1", "word"),
    [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
    ],
)
def test_throttled_device(runner: Runner, key: str, v1: str, word: str) -> None:
    major, minor = map(int, (disk := _disk()).split(":"))
    change = limited(blockIO={key: [{"major": major, "minor": minor, "rate": 102_400}]})
    running = runner.start("sleep", "1000", change=change)
    held = _held(running, "blkio", v1, "")
    assert held == f"{disk} 102400"


def test_huge_pages(runner: Runner) -> None:
    sizes = sorted(name.removeprefix("hugepages-") for name in os.listdir("/sys/kernel/mm/hugepages"))
    if not sizes or not {"hugetlb"} & {*hierarchies().v1, *hierarchies().v2_controllers}:
        pytest.skip("no hugetlb controller is mounted")
    kilobytes = int(sizes[-1].removesuffix("kB"))
    name = f"{kilobytes >> 20}GB" if kilobytes >= 1 << 20 else f"{kilobytes >> 10}MB"
    change = limited(hugepageLimits=[{"pageSize": name, "limit": kilobytes << 10}])
    running = runner.start("sleep", "1000", change=change)
    for kind in ("", "rsvd."):
        assert _held(running, "hugetlb", f"hugetlb.{name}.{kind}limit_in_bytes", f"hugetlb.{name}.{kind}max") == str(
            kilobytes << 10
        )


def test_nothing_is_touched_that_is_not_named(runner: Runner) -> None:
    running = runner.start("sleep", "1000", change=lambda config: config["linux"].update(resources={}))
    assert _held(running, "pids", "pids.max", "pids.max") == "max"
    assert _held(running, "cpu", "cpu.shares", "cpu.weight") == ("1024" if "cpu" in hierarchies().v1 else "100")


@pytest.mark.parametrize(
    ("resources", "controller"),
    [
        ({"network": {"classID": 0x100001}}, "net_cls"),
        ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, "net_prio"),
        ({"rdma": {"mlx5_0": {"hcaHandles": 3}}}, "rdma"),
    ],
)
def test_a_controller_that_is_not_there_is_an_error(runner: Runner, resources: dict[str, Any], controller: str) -> None:
    tree = hierarchies()
    if controller in tree.v1 or controller in tree.v2_controllers:
        pytest.skip(f"{controller} is mounted here")
    with pytest.raises(CgroupRefused, match=controller):
        runner.start("true", change=limited(**resources))


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"cpu": {"cpus": "4000"}}, "cpuset.cpus"),
        ({"cpu": {"mems": "0-"}}, "cpuset.mems"),
        ({"cpu": {"period": 1}}, "cpu"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}, "hugetlb.3MB"),
        ({"unified": {"nosuch.file": "1"}}, "nosuch"),
        ({"unified": {"../cgroup.procs": "0"}}, "without a slash"),
    ],
)
def test_a_value_that_the_kernel_refuses_is_named(runner: Runner, resources: dict[str, Any], word: str) -> None:
    with pytest.raises((CgroupRefused, InvalidConfig), match=word):
        runner.start("true", change=limited(**resources))


def test_unified_files_of_version_2(runner: Runner) -> None:
    tree = hierarchies()
    if tree.v2 is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    running = runner.start("sleep", "1000", change=limited(unified={"cgroup.max.depth": "3", "cgroup.max.descendants": "4"}))
    assert Path(f"{tree.v2}{running.plan.cgroup_path}/cgroup.max.depth").read_text() == "3\n"
    assert Path(f"{tree.v2}{running.plan.cgroup_path}/cgroup.max.descendants").read_text() == "4\n"
