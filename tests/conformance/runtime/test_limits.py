"""Limits bite, are counted, and can be changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import Cgroup, devices, hierarchies
from agent.runtime.cgroup.cgroup import attach_devices
from agent.runtime.cgroup.detect import Hierarchies
from agent.runtime.errors import CgroupRefused, RuntimeFailed
from tests.conformance.runtime.conftest import Runner, Running, kill_with, wait_for

MEMORY = 24 << 20


def limited(**resources: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"].update(resources)

    return change


def file_of(running: Running, controller: str, v1: str, v2: str) -> Path:
    tree = hierarchies()
    if controller in tree.v1:
        return Path(tree.v1[controller] + running.plan.cgroup_path) / v1
    return Path(f"{tree.v2}{running.plan.cgroup_path}") / v2


def test_memory_limit_kills_and_the_kill_is_counted(runner: Runner) -> None:
    change = limited(memory={"limit": MEMORY, "swap": MEMORY})
    running = runner.start("sh", "-c", "x=$(head -c 64m /dev/zero | tr '\\0' x); echo survived", change=change)
    outcome = running.wait()
    assert "survived" not in outcome.output
    assert outcome.status != 0
    assert running.cgroup.oom_count() >= 1
    assert running.cgroup.stats()["memory"]["oom_kills"] >= 1


def test_pids_limit_refuses_forks(runner: Runner) -> None:
    outcome = runner.sh("for i in 1 2 3 4 5 6; do sleep 100 & done; echo never", change=limited(pids={"limit": 4}))
    assert "can't fork" in outcome.output


def test_pids_limit_zero_lets_the_first_process_live(runner: Runner) -> None:
    outcome = runner.sh("true & echo $?", change=limited(pids={"limit": 0}))
    assert "can't fork" in outcome.output


def test_cpu_quota_is_in_the_kernel(runner: Runner) -> None:
    running = runner.start("sleep", "1000", change=limited(cpu={"quota": 20000, "period": 50000, "shares": 512}))
    if "cpu" in hierarchies().v1:
        assert file_of(running, "cpu", "cpu.cfs_quota_us", "").read_text() == "20000\n"
        assert file_of(running, "cpu", "cpu.cfs_period_us", "").read_text() == "50000\n"
        assert file_of(running, "cpu", "cpu.shares", "").read_text() == "512\n"
    else:
        assert file_of(running, "cpu", "", "cpu.max").read_text() == "20000 50000\n"


def test_cpu_quota_throttles(runner: Runner) -> None:
    running = runner.start("sh", "-c", "while :; do :; done", change=limited(cpu={"quota": 5000, "period": 50000}))
    wait_for(lambda: running.cgroup.stats()["cpu"]["throttled_periods"] > 1, "throttled periods")


def test_stats_count_what_happens(runner: Runner) -> None:
    running = runner.start("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000")
    assert running.read_line() == "done"
    usage = running.cgroup.stats()
    assert usage["cpu"]["usage"] > 1_000_000
    assert usage["memory"]["usage"] > 0
    assert usage["memory"]["limit"] is None
    assert usage["pids"]["current"] >= 1
    assert usage["pids"]["limit"] == 4096


def test_update_changes_limits_of_a_running_container(runner: Runner) -> None:
    running = runner.start("sleep", "1000", change=limited(memory={"limit": MEMORY, "swap": MEMORY}))
    running.cgroup.update({"memory": {"limit": 4 * MEMORY, "swap": 4 * MEMORY}, "pids": {"limit": 7}})  # up: the sum first
    usage = running.cgroup.stats()
    assert (usage["memory"]["limit"], usage["pids"]["limit"]) == (4 * MEMORY, 7)
    running.cgroup.update({"memory": {"limit": MEMORY}})
    assert running.cgroup.stats()["memory"]["limit"] == MEMORY


def test_refused_limit_names_file_and_value_and_leaves_nothing(runner: Runner) -> None:
    with pytest.raises(CgroupRefused, match=r"nonsense.*cpuset.cpus"):
        runner.start("true", change=limited(cpu={"cpus": "nonsense"}))


def test_memory_too_small_to_set_up_is_an_error_and_leaves_nothing(runner: Runner) -> None:
    with pytest.raises((RuntimeFailed, CgroupRefused)):
        runner.start("true", change=limited(memory={"limit": 4096, "swap": 4096}))


def test_pause_stops_and_resume_continues(runner: Runner) -> None:
    running = runner.start("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/n; done")
    counter = Path(f"/proc/{running.init.pid}/root/dev/shm/n")
    wait_for(counter.exists, "the counter")
    running.cgroup.freeze()
    assert running.cgroup.frozen()
    spent = running.cgroup.stats()["cpu"]["usage"]
    assert running.cgroup.stats()["cpu"]["usage"] == spent
    running.cgroup.thaw()
    assert not running.cgroup.frozen()
    wait_for(lambda: running.cgroup.stats()["cpu"]["usage"] > spent, "work after the resume")


def test_kill_takes_every_process_also_when_paused(runner: Runner) -> None:
    running = runner.start("sh", "-c", "for i in 1 2 3; do (trap '' TERM; while :; do sleep 100; done) & done; echo up; wait")
    running.read_line()
    pids = wait_for(lambda: found if len(found := running.cgroup.pids()) >= 4 else None, "the children")
    running.cgroup.freeze()
    running.cgroup.kill()
    assert running.wait().status == 128 + signal.SIGKILL
    wait_for(lambda: running.cgroup.pids() == [], "an empty cgroup")
    assert len(pids) >= 4


@pytest.mark.skipif("freezer" not in hierarchies().v1, reason="cgroup v1 has no freezer here")
@pytest.mark.parametrize("freezer", [True, False])
def test_version_1_alone_kills_what_forks(runner: Runner, freezer: bool) -> None:
    running = runner.start("sh", "-c", "for i in 1 2 3 4 5; do (while :; do true & wait; done) & done; echo up; wait")
    running.read_line()
    v1 = {name: point for name, point in hierarchies().v1.items() if freezer or name != "freezer"}
    alone = Cgroup(running.plan.cgroup_path, Hierarchies(v1, None, frozenset()))
    wait_for(lambda: len(alone.pids()) >= 6, "the children")
    if freezer:
        alone.freeze()
        assert alone.frozen()
        assert not running.cgroup.frozen()  # which looks at version 2
    alone.kill()
    assert running.wait().status == 128 + signal.SIGKILL
    wait_for(lambda: alone.pids() == [], "an empty cgroup")


def test_signal_reaches_init(runner: Runner) -> None:
    running = runner.start("sh", "-c", "trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.01; done")
    running.read_line()
    kill_with(running, signal.SIGTERM)
    outcome = running.wait()
    assert (outcome.status, outcome.output) == (9, "got\n")


def test_devices_outside_the_list_are_refused(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        names = ["CAP_MKNOD"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), names)

    # /dev/mem-like 1:1 may be made, never opened; 1:3 may
    outcome = runner.sh("mknod /dev/x c 1 11 && cat /dev/x; mknod /dev/y c 1 3 && cat /dev/y && echo null", change=change)
    assert "Operation not permitted" in outcome.lines[0]
    assert outcome.lines[1] == "null"


def test_allowed_device_opens(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [{"path": "/dev/mine/k", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 3}]
        config["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"})

    outcome = runner.sh("stat -c '%F %t:%T %a %u' /dev/mine/k; : > /dev/mine/k && echo opened", change=change)
    assert outcome.lines == ["character special file 1:b 640 3", "opened"]


def test_v2_device_program_has_the_meaning_of_v1() -> None:
    """The BPF program on a cgroup of the v2 hierarchy, which hybrid machines have, too."""
    tree = hierarchies()
    if tree.v2 is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    path = f"{tree.v2}/wharf-runtime-test-dev-{os.getpid()}"
    os.mkdir(path)
    try:
        attach_devices(path, devices.rules([]))
        assert _opens(path, "/dev/null", os.O_RDWR)
        assert not _opens(path, "/dev/kmsg", os.O_RDONLY)
        attach_devices(path, devices.rules([{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]))
        assert _opens(path, "/dev/kmsg", os.O_RDONLY)
        assert not _opens(path, "/dev/kmsg", os.O_RDWR)
        refuse = [{"allow": True, "access": "rwm"}, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}]
        attach_devices(path, devices.rules(refuse))
        assert _opens(path, "/dev/kmsg", os.O_RDONLY)
        assert not _opens(path, "/dev/kmsg", os.O_WRONLY)
    finally:
        wait_for(lambda: _rmdir(path), "the cgroup to empty")


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def _opens(cgroup: str, device: str, flags: int) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            with open(f"{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
            os.close(os.open(device, flags))
        except PermissionError:
            os._exit(1)
        except BaseException:  # noqa: BLE001  # the child of a fork must not return
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0


def test_rlimits(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]

    line = next(line for line in runner.run("cat", "/proc/self/limits", change=change).lines if "open files" in line)
    assert line.split()[3:5] == ["77", "99"]


def test_oom_score_adjustment_and_umask(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["oomScoreAdj"] = 321
        config["process"]["user"]["umask"] = 0o077

    assert runner.sh("cat /proc/self/oom_score_adj; umask", change=change).lines == ["321", "0077"]


def test_cgroup_remove_takes_nested_ones(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    for point in hierarchies().mount_points():
        os.makedirs(f"{point}{running.plan.cgroup_path}/a/b")
    running.end()
    runner.running.remove(running)
    assert not Cgroup(running.plan.cgroup_path).exists()
