"""process and the linux section's per-process keys: what the spec says MUST be so, seen from inside."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.conftest import RELEASE, Runner


def changed(**keys: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["process"].update(keys)

    return change


def test_capabilities_in_vain_are_warnings(runner: Runner) -> None:
    plan = runner.plan("true", change=changed(capabilities={"bounding": ["CAP_NONE_SUCH", "CAP_KILL"]}))
    assert any("CAP_NONE_SUCH" in text for text in plan.warnings)
    assert runner.start_plan(plan).wait().status == 0


def test_umask_is_the_callers_unless_given(runner: Runner) -> None:
    before = os.umask(0o027)
    try:
        assert runner.sh("umask", change=changed(user={"uid": 0, "gid": 0})).output == "0027\n"
        assert runner.sh("umask", change=changed(user={"uid": 0, "gid": 0, "umask": 0o077})).output == "0077\n"
    finally:
        os.umask(before)


def test_scheduler_and_io_priority(runner: Runner) -> None:
    change = changed(scheduler={"policy": "SCHED_BATCH", "nice": 7}, ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 3})
    running = runner.start("sleep", "1000", change=change)
    assert os.sched_getscheduler(running.init.pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, running.init.pid) == 7


def test_exec_runs_on_its_own_processors(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    first = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    outcome = running.exec(
        "grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity={"initial": str(first), "final": str(first)}
    )
    assert outcome.output.split()[1] == str(first)
    assert os.sched_getaffinity(0) == before


def test_memory_policy_is_kept_over_exec(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}

    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("the kernel has no NUMA")
    assert "bind:0" in runner.run("cat", "/proc/self/numa_maps", change=change).output


@pytest.mark.parametrize("key", ["apparmorProfile", "selinuxLabel"])
def test_label_without_its_security_module_is_an_error(runner: Runner, key: str) -> None:
    from agent.runtime import labels

    if labels.apparmor_runs() if key == "apparmorProfile" else labels.selinux_runs():
        pytest.skip(f"the security module of {key} runs here")
    with pytest.raises(InvalidConfig, match=key):
        runner.plan("true", change=changed(**{key: "x"}))


def test_a_container_without_process_is_created_and_never_started(runner: Runner) -> None:
    plan = runner.plan("true", change=lambda config: config.pop("process"))
    with pytest.raises(InvalidConfig, match="process is missing"):
        runner.start_plan(plan)
    runner.running[0].init.abandon()


@pytest.mark.skipif(RELEASE < (6, 15), reason="a tree that is mounted nowhere can be built upon from Linux 6.15 on")
def test_without_a_mount_namespace_nothing_is_mounted_on_the_host(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        kept = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "mount"]
        config["linux"]["namespaces"] = kept

    running = runner.start("sleep", "1000", change=change)  # the runner's own check compares the host's mounts
    assert os.readlink(f"/proc/{running.init.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert "busybox" in running.exec("ls", "/bin").output
