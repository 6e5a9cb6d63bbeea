"""Programs run beside init, with the same fences; terminals."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from agent.runtime import caps, container
from agent.runtime.container import Stdio
from agent.runtime.defaults import CAPABILITIES
from agent.runtime.errors import ExecFailed, RuntimeFailed, WrongState
from agent.runtime.exec import exec_in
from agent.sys import tty
from tests.conformance.runtime.conftest import Runner, Running, wait_for


def test_joins_every_namespace_and_cgroup(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    lines = running.exec(
        "sh", "-c", "cd /proc/self/ns; for n in mnt pid net uts ipc cgroup; do echo $n $(readlink $n); done"
    ).lines
    for name, seen in (line.split() for line in lines):
        assert seen == os.readlink(f"/proc/{running.init.pid}/ns/{name}"), name
    assert all(line.endswith(":/") for line in running.exec("cat", "/proc/self/cgroup").lines)


def test_same_fences_as_init(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    seen = running.exec("grep", "-E", "Cap|NoNewPrivs|Seccomp:", "/proc/self/status").lines
    status = dict(line.split(":\t") for line in seen)
    wanted = f"{caps.mask(CAPABILITIES):016x}"
    assert status == {
        "CapInh": "0" * 16, "CapPrm": wanted, "CapEff": wanted, "CapBnd": wanted, "CapAmb": "0" * 16, "NoNewPrivs": "1",
        "Seccomp": "2",
    }  # fmt: skip


def test_descriptors_are_exactly_three(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    fd = os.open("/", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        assert running.exec("ls", "/proc/self/fd").output.split() == ["0", "1", "2", "3"]
    finally:
        os.close(fd)


def test_exit_statuses(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    assert running.exec("sh", "-c", "exit 42").status == 42
    assert running.exec("sh", "-c", "kill -9 $$").status == 128 + signal.SIGKILL
    for program, code in (("no-such-program", 127), ("/etc/passwd", 126)):
        with pytest.raises(ExecFailed) as error:
            running.exec(program)
        assert error.value.extra["exit_code"] == code


def test_other_user_directory_and_environment(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    user = {"uid": 1000, "gid": 1000, "additionalGids": [9]}
    outcome = running.exec("sh", "-c", "id; pwd; echo $HOME $X", user=user, cwd="/tmp", env=["X=y", "PATH=/bin"])
    assert outcome.lines == ["uid=1000(alice) gid=1000 groups=9", "/tmp", "/home/alice y"]


def test_paused_container_refuses(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    running.cgroup.freeze()
    with pytest.raises(WrongState, match="paused"):
        running.exec("true")
    running.cgroup.thaw()
    assert running.exec("true").status == 0


def test_ended_container_refuses(runner: Runner) -> None:
    running = runner.start("true")
    running.wait()
    with pytest.raises(WrongState, match="not running"):
        running.exec("true")


def test_pid_of_another_process_refuses(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    with pytest.raises(WrongState, match="another process"):
        exec_in(running.plan, running.init.pid, running.plan.config["process"], Stdio(), start_time=running.init.start_time + 1)


def test_counts_against_the_limits(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 3}

    running = runner.start("sleep", "1000", change=change)
    outcome = running.exec("sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait")
    assert "can't fork" in outcome.output


def test_terminal_of_init(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["consoleSize"] = {"height": 33, "width": 101}

    script = "stty size; tty; ls /dev/console; : < /dev/tty && echo controlling; echo $(readlink /proc/self/fd/0)"
    outcome = runner.sh(script, terminal=True, change=change)
    assert outcome.lines == ["33 101", "/dev/pts/0", "/dev/console", "controlling", "/dev/pts/0"]


def test_terminal_signals_and_resize(runner: Runner) -> None:
    script = "trap 'stty size' WINCH; trap 'echo int; exit 3' INT; echo up; while :; do sleep 0.01; done"
    running = runner.start("sh", "-c", script, terminal=True)
    assert running.read_line() == "up"
    tty.resize(running.init.console_fd, 44, 55)
    assert running.read_line() == "44 55"
    os.write(running.init.console_fd, b"\x03")
    assert running.wait().status == 3


def test_terminal_belongs_to_the_user(runner: Runner) -> None:
    outcome = runner.sh("stat -c %u $(tty)", terminal=True, uid=1000, gid=1000)
    assert outcome.output.strip() == "1000"


def test_terminal_of_exec(runner: Runner) -> None:
    running = runner.start("sleep", "1000")
    outcome = running.exec("sh", "-c", "tty; : < /dev/tty && echo controlling", terminal=True)
    assert outcome.lines == ["/dev/pts/0", "controlling"]


def test_stdio_can_be_opened_again_by_the_user(runner: Runner) -> None:
    assert runner.sh("echo again > /dev/stdout", uid=1000, gid=1000).output == "again\n"


def test_created_container_waits(runner: Runner) -> None:
    plan = runner.plan("echo", "ran")
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    init = container.create(plan, Stdio(null, writer, writer))
    os.close(writer)
    os.close(null)
    running = Running(plan, init, reader)
    runner.running.append(running)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    os.set_blocking(reader, True)
    assert init.start_time > 0
    init.start()
    assert running.wait().output == "ran\n"
    with pytest.raises(RuntimeFailed):
        init.start()


def test_created_container_that_was_killed_reports_it(runner: Runner) -> None:
    plan = runner.plan("true")
    init = container.create(plan, Stdio())
    running = Running(plan, init, -1)
    runner.running.append(running)
    running.cgroup.kill()
    wait_for(lambda: os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT), "its death")
    with pytest.raises(RuntimeFailed, match="before it was started"):
        init.start()
