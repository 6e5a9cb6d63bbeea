"""process and the linux section's per-process keys: what the spec says MUST be so, seen from inside."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps, labels
from agent.runtime.errors import InvalidConfig, RuntimeFailed
from agent.runtime.schema import RLIMITS
from tests.conformance.runtime.conftest import Runner


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
    """Nor one that the module does not know, which AppArmor alone can be asked beforehand."""
    if key == "selinuxLabel" and labels.selinux_runs():
        pytest.skip("SELinux runs here")
    with pytest.raises(InvalidConfig, match=f"{key} is 'no such'.*this node") as caught:
        runner.plan("true", change=changed(**{key: "no such"}))
    assert caught.value.code == "invalid_config"


def test_a_profile_that_is_gone_at_start_is_told_in_words(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    if not labels.apparmor_runs():
        pytest.skip("the kernel does not run AppArmor")
    monkeypatch.setattr(labels, "is_loaded", lambda _: True)
    plan = runner.plan("true", change=changed(apparmorProfile="gone"))
    with pytest.raises(RuntimeFailed, match="no profile 'gone' is loaded on this node; load it") as caught:
        runner.start_plan(plan)
    assert (caught.value.extra["stage"], caught.value.extra["errno"]) == ("labels", 2)
    runner.running[0].init.abandon()


def test_a_container_without_process_is_created_and_never_started(runner: Runner) -> None:
    plan = runner.plan("true", change=lambda config: config.pop("process"))
    with pytest.raises(InvalidConfig, match="process is missing"):
        runner.start_plan(plan)
    runner.running[0].init.abandon()


def test_without_a_mount_namespace_nothing_is_mounted_on_the_host(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        kept = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "mount"]
        config["linux"]["namespaces"] = kept

    running = runner.start("sleep", "1000", change=change)  # the runner's own check compares the host's mounts
    assert os.readlink(f"/proc/{running.init.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert "busybox" in running.exec("ls", "/bin").output


# as /proc/PID/limits names them, in the order of their numbers (getrlimit(2))
LIMITS = (
    "Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
    "Max processes", "Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
    "Max msgqueue size", "Max nice priority", "Max realtime priority", "Max realtime timeout",
)  # fmt: skip


def test_every_rlimit_is_the_kernels(runner: Runner) -> None:
    """Half of what we have, so that none has to be raised."""
    wanted = {}
    for name, number in RLIMITS.items():
        hard = resource.prlimit(0, number)[1]
        hard = 1 << 40 if hard < 0 else hard
        wanted[number] = (name, hard // 2, hard)
    limits = [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in wanted.values()]
    shown = runner.run("cat", "/proc/self/limits", change=changed(rlimits=limits)).lines
    for number, title in enumerate(LIMITS):
        (line,) = [line for line in shown if line.startswith(title)]
        assert tuple(map(int, line.removeprefix(title).split()[:2])) == wanted[number][1:], title


def test_limits_are_not_touched_unless_named(runner: Runner) -> None:
    shown = runner.run("cat", "/proc/self/limits", change=changed(rlimits=[])).output
    assert shown == Path("/proc/self/limits").read_text()


def test_environment_and_arguments_are_word_for_word(runner: Runner) -> None:
    words = ["a b", "", "*", "$HOME", "é\udcff", "-x"]
    change = changed(
        env=["PATH=/bin", "A=", "B=x=y z", "HOME=/nowhere"], args=["sh", "-c", 'env; printf "<%s>" "$0" "$@"', *words]
    )
    output = runner.run("true", change=change).output
    assert {"A=", "B=x=y z", "HOME=/nowhere", "PATH=/bin"} <= set(output.splitlines())
    assert output.endswith("<a b><><*><$HOME><é\ufffd><-x>")


def test_groups_are_those_given(runner: Runner) -> None:
    user = {"uid": 4321, "gid": 5432, "additionalGids": [7, 70_000]}
    assert runner.sh("id -u; id -g; id -G", change=changed(user=user)).lines == ["4321", "5432", "5432 7 70000"]
    assert runner.sh("id -G", change=changed(user={"uid": 0, "gid": 9})).output == "9\n"


def test_oom_score_is_not_touched_unless_given(runner: Runner) -> None:
    before = Path("/proc/self/oom_score_adj").read_text()

    def change(config: dict[str, Any]) -> None:
        config["process"].pop("oomScoreAdj", None)

    assert runner.run("cat", "/proc/self/oom_score_adj", change=change).output == before


def test_the_terminals_size(runner: Runner) -> None:
    change = changed(terminal=True, consoleSize={"height": 33, "width": 99})
    assert runner.start("stty", "size", change=change).wait().output.strip() == "33 99"
    assert runner.run("true", change=changed(consoleSize={"height": 33, "width": 99})).status == 0  # ignored without one


def test_capability_sets_are_apart(runner: Runner) -> None:
    names = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"]
    sets = {"bounding": names, "permitted": names[:3], "inheritable": names[:2], "effective": names[:2], "ambient": names[:1]}

    def seen(**user: int) -> dict[str, int]:
        lines = runner.run("grep", "Cap", "/proc/self/status", change=changed(capabilities=sets, user=user)).lines
        return {line[3:6]: int(line.split()[1], 16) for line in lines}

    # root's program is given its permitted and effective set by execve (capabilities(7)): all of bounding
    assert (seen(uid=0, gid=0)["Bnd"], seen(uid=0, gid=0)["Inh"]) == (caps.mask(names), caps.mask(names[:2]))
    plain = seen(uid=1, gid=1)
    assert plain == {
        "Inh": caps.mask(names[:2]), "Prm": caps.mask(names[:1]), "Eff": caps.mask(names[:1]), "Bnd": caps.mask(names),
        "Amb": caps.mask(names[:1]),
    }  # fmt: skip


@pytest.mark.parametrize("flag", [True, False])
def test_no_new_privileges(runner: Runner, flag: bool) -> None:
    running = runner.start("sleep", "1000", change=changed(noNewPrivileges=flag))
    for whose in ("1", "self"):
        assert running.exec("grep", "NoNewPrivs", f"/proc/{whose}/status").output.split()[1] == str(int(flag))
