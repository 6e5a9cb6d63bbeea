"""wharf-runtime from outside: life cycle, state, exit statuses, and the same bundle under runc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agent.runtime import cgroup as cgroups
from agent.runtime.defaults import default_config
from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import wait_for
from tests.pace import patience


def test_life_cycle(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    assert command.status("c1") == "created"
    command("start", "c1")
    assert command.status("c1") == "running"
    assert "already running" in command("start", "c1", check=1).stdout
    assert "c1" in command("list").stdout
    command("pause", "c1")
    assert command.status("c1") == "paused"
    assert "not running" in command("pause", "c1", check=1).stdout
    assert "cannot exec in a paused container" in command("exec", "c1", "true", check=255).stdout
    command("resume", "c1")
    assert "not paused" in command("resume", "c1", check=1).stdout
    assert "not stopped" in command("delete", "c1", check=1).stdout
    command("kill", "c1", "KILL")
    wait_for(lambda: command.status("c1") == "stopped", "the death")
    assert "container not running" in command("kill", "c1", check=1).stdout
    assert "has stopped" in command("start", "c1", check=1).stdout
    assert "cannot exec in a stopped container" in command("exec", "c1", "true", check=255).stdout
    command("kill", "-a", "c1", "0")
    command("delete", "c1")
    assert "container does not exist" in command("state", "c1", check=1).stdout


def test_run_passes_the_exit_status_on_and_leaves_nothing(command: Command) -> None:
    command.configure("sh", "-c", "echo out; exit 7")
    assert command.run(check=7).stdout == "out\n"
    assert command("list", "-q").stdout == ""
    assert not cgroups.Cgroup(command.parent + "/box").exists()


def test_run_keep(command: Command) -> None:
    command.configure("true")
    command.run("--keep")
    assert command.status("box") == "stopped"
    assert cgroups.Cgroup(command.parent + "/box").exists()


def test_a_signal_as_soon_as_the_program_runs_is_forwarded(command: Command, tmp_path: Path) -> None:
    config = command.configure("sh", "-c", "trap 'exit 9' TERM; touch /shared/ready; while :; do sleep 0.05; done")
    config["mounts"].append({"destination": "/shared", "type": "bind", "source": str(tmp_path), "options": ["rbind"]})
    # before `start` has returned: the hook's parent is the command
    script = f"while ! [ -e {tmp_path}/ready ]; do sleep 0.02; done; kill -TERM $PPID"
    config["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]}
    command.write(config)
    command.run(check=9)


def test_run_forwards_signals(command: Command) -> None:
    command.configure("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    running = subprocess.Popen(
        command.words("run", "-b", str(command.bundle), "box"), stdout=subprocess.PIPE, text=True, env=command.environment
    )
    assert running.stdout is not None
    with running.stdout:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=patience(20)) == 9


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such/program", 'exec: "/no/such/program": stat /no/such/program: no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        ("/etc", 'exec: "/etc": permission denied'),
    ],
)
def test_program_that_cannot_run(command: Command, program: str, why: str) -> None:
    """In runc's words, at create: podman and dockerd make their 126 and 127 of them."""
    log = command.bundle / "log"
    command.configure(program)
    assert command.run(check=1).stdout.rstrip().endswith(json.dumps(why)[1:])
    command("--log", str(log), "create", "-b", str(command.bundle), "box", check=1, stdout=subprocess.DEVNULL)
    assert f"wharf-runtime create failed: unable to start container process: {json.dumps(why)[1:]}" in log.read_text()
    assert command("list", "-q").stdout == ""
    command.start("c1", "sleep", "1000")
    assert json.dumps(why)[1:] in command("exec", "c1", program, check=255).stdout


def test_process_runs_from_a_sealed_interpreter(command: Command) -> None:
    """CVE-2019-5736: while a container is created its process is our interpreter: a sealed memory file, never the host's."""
    command.configure("sleep", "1000")
    command.create("c1")
    assert os.readlink(f"/proc/{command.pid('c1')}/exe").startswith("/memfd:wharf-runtime")


def test_config_edits_after_create_have_no_effect(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    (command.bundle / "config.json").write_text("{}")
    command("start", "c1")
    assert command.status("c1") == "running"


def test_bad_bundles_are_explained(command: Command) -> None:
    config = default_config(["true"])
    config["linux"]["cgroupsPath"] = command.parent + "/box"
    for change, word in (
        (lambda c: c["process"].pop("args"), "process.args is missing"),
        (lambda c: c.update(ociVersion="7"), "ociVersion"),
        (lambda c: c["linux"]["namespaces"].append({"type": "pid"}), "twice"),
        (lambda c: c["linux"].update(sysctl={"kernel.panic": "1"}), "kernel.panic"),
        (lambda c: c["linux"]["resources"].update(hugepageLimits=[{"size": 1}]), "pageSize is missing"),
    ):
        broken = json.loads(json.dumps(config))
        change(broken)
        command.write(broken)
        assert word in command("create", "-b", str(command.bundle), "box", check=1).stdout
        assert not cgroups.Cgroup(command.parent + "/box").exists()
    (command.bundle / "config.json").write_text("{")
    assert "is not JSON" in command.run(check=1).stdout
    assert "config.json not found" in command("run", "-b", str(command.state), "box", check=1).stdout
    assert "no such file or directory" in command("run", "-b", "/nowhere", "box", check=1).stdout
    assert command("list", "-q").stdout == ""


def test_a_frozen_cgroup_is_refused_and_a_shared_one_told(command: Command) -> None:
    command.start("c1", "sleep", "1000")
    config = command.configure("true")
    config["linux"]["cgroupsPath"] = command.parent + "/c1"
    command.write(config)
    assert "cgroup is not empty" in command("run", "--keep", "-b", str(command.bundle), "box").stdout
    command("pause", "c1")
    assert "unexpectedly frozen" in command("run", "-b", str(command.bundle), "c2", check=1).stdout
    command("delete", "-f", "c1")
    assert "c2" not in command("list", "-q").stdout


def test_delete_by_regular_expression(command: Command) -> None:
    command.configure("sleep", "1000")
    for id in ("web-1", "web-2", "db-1"):
        command.create(id)
    command("kill", "--regex", "^web", "KILL")
    wait_for(lambda: command.status("web-1") == command.status("web-2") == "stopped", "the deaths")
    assert command.status("db-1") == "created"
    command("delete", "--regex", "-f", "^web")
    assert command("list", "-q").stdout == "db-1\n"
    assert "regular expression" in command("kill", "-r", "(", check=1).stdout


def test_kill_reaches_all_where_the_pid_namespace_is_the_host_s(command: Command) -> None:
    config = command.configure("sh", "-c", "sleep 1000 & exec sleep 1000")
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "pid"]
    command.write(config)
    command.create("c1")
    command("start", "c1")
    wait_for(lambda: len(json.loads(command("ps", "-f", "json", "c1").stdout)) == 2, "both processes")
    command("kill", "c1", "KILL")
    wait_for(lambda: json.loads(command("ps", "-f", "json", "c1").stdout) == [], "both deaths")


# Masked files differ on purpose: we show the host's /dev/null (devtmpfs), runc 1.1 the container's.
PROBE = (
    "id; pwd; hostname; cat /proc/self/cgroup | wc -l; grep -E 'Cap|NoNewPrivs|Seccomp:|Groups' /proc/self/status;"
    " ls /dev | grep -v core; ls /proc/self/fd; umask;"
    " cut -d' ' -f2- /proc/mounts | cut -d' ' -f1,2 | grep -vE 'cgroup|interrupts|keys' | sort;"
    " cat /proc/interrupts /proc/keys; touch /proc/sys/x 2>&1; echo $HOME; cat /proc/self/oom_score_adj"
)


def test_same_bundle_behaves_as_under_runc(command: Command) -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed")
    config = command.configure("sh", "-c", PROBE)
    config["root"]["path"] = str((command.bundle / "rootfs").resolve())  # runc wants no link
    config["linux"].pop("seccomp")  # runc's filter carries the same number in status; compiled in test_seccomp
    # one order for both, and the parts that every runtime makes alike
    config["linux"]["maskedPaths"] = ["/proc/interrupts", "/proc/keys"]
    for mount in config["mounts"]:
        mount["options"] = [option for option in mount["options"] if option != "ro" or mount["destination"] != "/sys"]
    command.write(config)
    ours = command.run().stdout
    root = str(command.state) + "-runc"
    theirs = subprocess.run(
        [runc, "--root", root, "run", "-b", str(command.bundle), "probe"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patience(60), check=False,
    ).stdout  # fmt: skip
    assert ours == theirs


def test_rootless_root_goes_without_a_cgroup_that_cannot_be_written(command: Command) -> None:
    """As in a container whose cgroup mounts are read-only."""
    config = command.configure("cat", "/proc/self/cgroup")
    del config["linux"]["cgroupsPath"], config["linux"]["resources"]
    command.write(config)
    script = 'for m in $(findmnt -rno TARGET -t cgroup,cgroup2); do mount -o remount,bind,ro $m || exit 1; done; exec "$@"'
    sealed = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
    assert "Read-only file system" in command.run(behind=sealed, check=1).stdout
    words = command.words("--rootless", "true", "run", "-b", str(command.bundle), "box")
    done = subprocess.run([*sealed, *words], capture_output=True, text=True, env=command.environment, check=True)
    assert "no cgroup is delegated" in done.stderr
    assert "0::/\n" in done.stdout
