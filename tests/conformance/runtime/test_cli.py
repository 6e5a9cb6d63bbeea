"""wharf-runtime from outside: life cycle, state, exit statuses, terminal, and the same bundle under runc and crun."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import cgroup as cgroups
from agent.runtime.defaults import default_config
from tests.conformance.runtime.conftest import wait_for

REPOSITORY = Path(__file__).parents[3]


class Command:
    """The program with a state directory and a bundle of its own."""

    def __init__(self, state: Path, bundle: Path) -> None:
        self.state, self.bundle = state, bundle
        self.ids: list[str] = []
        self.parent = f"/wharf-runtime-cli-{os.getpid()}"

    def configure(self, *args: str, **options: Any) -> dict[str, Any]:
        config = default_config(list(args), hostname="cli", **options)
        self.write(config)
        return config

    def write(self, config: dict[str, Any]) -> None:
        (self.bundle / "config.json").write_text(json.dumps(config))

    def __call__(self, *args: str, check: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agent.runtime.cli", "--root", str(self.state), *args]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **options}
        done = subprocess.run(command, text=True, env=environment, timeout=30, check=False, **options)
        assert check is None or done.returncode == check, done.stdout
        return done

    def create(self, id: str, **options: Any) -> None:
        path = f"{self.parent}/{id}"
        config = json.loads((self.bundle / "config.json").read_text())
        config["linux"]["cgroupsPath"] = path
        self.write(config)
        self.ids.append(id)
        # its streams must not be the pipe that the test reads to the end
        self("create", "-b", str(self.bundle), id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    def status(self, id: str) -> str:
        return str(json.loads(self("state", id).stdout)["status"])


@pytest.fixture
def command(tmp_path: Path, busybox_root: Path) -> Iterator[Command]:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "rootfs").symlink_to(busybox_root)
    made = Command(tmp_path / "state", bundle)
    yield made
    for id in made.ids:
        made("delete", "-f", id)
    parent = cgroups.Cgroup(made.parent)
    assert not parent.exists() or (parent.pids() == [] and parent.remove(seconds=10))


def test_life_cycle(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    assert command.status("c1") == "created"
    command("start", "c1")
    assert command.status("c1") == "running"
    assert "already started" in command("start", "c1", check=1).stdout
    assert "c1" in command("list").stdout
    assert len(json.loads(command("ps", "-f", "json", "c1").stdout)) == 1
    assert "sleep 1000" in command("ps", "c1").stdout
    command("pause", "c1")
    assert command.status("c1") == "paused"
    assert "paused" in command("exec", "c1", "true", check=1).stdout
    command("resume", "c1")
    assert json.loads(command("events", "--stats", "c1").stdout)["data"]["pids"]["current"] == 1
    command("update", "--pids-limit", "50", "c1")
    assert json.loads(command("events", "--stats", "c1").stdout)["data"]["pids"]["limit"] == 50
    assert "not stopped" in command("delete", "c1", check=1).stdout
    command("kill", "c1", "KILL")
    wait_for(lambda: command.status("c1") == "stopped", "the death")
    assert "not running" in command("kill", "c1", check=1).stdout
    command("delete", "c1")
    assert "does not exist" in command("state", "c1", check=1).stdout


def test_run_passes_the_exit_status_on_and_leaves_nothing(command: Command) -> None:
    config = command.configure("sh", "-c", "echo out; exit 7")
    config["linux"]["cgroupsPath"] = command.parent + "/r"
    command.write(config)
    done = command("run", "-b", str(command.bundle), "r1", check=7)
    assert done.stdout == "out\n"
    assert command("list", "-q").stdout == ""
    assert not cgroups.Cgroup(command.parent + "/r").exists()


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_program_that_cannot_run(command: Command, program: str, code: int) -> None:
    config = command.configure(program)
    config["linux"]["cgroupsPath"] = command.parent + "/r"
    command.write(config)
    assert "cannot run" in command("run", "-b", str(command.bundle), "r1", check=code).stdout
    command.configure("sleep", "1000")
    command.create("c1")
    command("start", "c1")
    command("exec", "c1", program, check=code)


def test_start_reports_a_program_that_cannot_run(command: Command) -> None:
    command.configure("no-such-program")
    command.create("c1")
    assert "No such file" in command("start", "c1", check=127).stdout
    wait_for(lambda: command.status("c1") == "stopped", "the death")


def test_exec_options(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    command("start", "c1")
    script = "id -u; id -g; pwd; echo $K; grep CapEff /proc/self/status; exit 5"
    done = command("exec", "-u", "1000:1000", "--cwd", "/tmp", "-e", "K=v", "c1", "sh", "-c", script, check=5)
    assert done.stdout.splitlines()[:4] == ["1000", "1000", "/tmp", "v"]


def test_process_runs_from_a_sealed_interpreter(command: Command) -> None:
    """CVE-2019-5736: while a container is created its process is our interpreter: a sealed memory file, never the host's."""
    command.configure("sleep", "1000")
    command.create("c1")
    pid = json.loads(command("state", "c1").stdout)["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:wharf-runtime")


def test_config_edits_after_create_have_no_effect(command: Command) -> None:
    command.configure("sleep", "1000")
    command.create("c1")
    (command.bundle / "config.json").write_text("{}")
    command("start", "c1")
    assert command.status("c1") == "running"


def test_console_socket(command: Command, tmp_path: Path) -> None:
    config = command.configure("sh", "-c", "tty; exec sleep 1000", terminal=True)
    assert config["process"]["terminal"]
    assert "console socket" in command("create", "-b", str(command.bundle), "x", check=1).stdout
    command("delete", "-f", "x")
    path = str(tmp_path / "console.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(20)
        config["linux"]["cgroupsPath"] = command.parent + "/t"
        command.write(config)
        command.ids.append("t1")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command("create", "-b", str(command.bundle), "--console-socket", path, "t1", **quiet)
        connection, _ = server.accept()
        _, fds, _, _ = socket.recv_fds(connection, 100, 1)
        connection.close()
    command("start", "t1")
    assert os.read(fds[0], 100) == b"/dev/pts/0\r\n"
    os.close(fds[0])


def test_bad_bundles_are_explained(command: Command) -> None:
    config = default_config(["true"])
    for change, word in (
        (lambda c: c.pop("process"), "process is missing"),
        (lambda c: c.update(ociVersion="7"), "ociVersion"),
        (lambda c: c["linux"]["namespaces"].append({"type": "pid"}), "twice"),
        (lambda c: c["linux"].update(sysctl={"kernel.panic": "1"}), "kernel.panic"),
    ):
        broken = json.loads(json.dumps(config))
        change(broken)
        command.write(broken)
        assert word in command("create", "-b", str(command.bundle), "c1", check=1).stdout
    assert command("list", "-q").stdout == ""


def test_log_file_in_json(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command("--log", str(log), "--log-format", "json", "start", "nobody", check=1)
    entry = json.loads(log.read_text())
    assert entry["level"] == "error"
    assert "does not exist" in entry["msg"]


def test_spec_and_features(command: Command) -> None:
    command("spec", "-b", str(command.bundle))
    assert json.loads((command.bundle / "config.json").read_text())["ociVersion"] == "1.2.0"
    assert "exists" in command("spec", "-b", str(command.bundle), check=1).stdout
    told = json.loads(command("features").stdout)
    assert told["linux"]["seccomp"]["enabled"] is True
    assert "rro" in told["mountOptions"]


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
    config["linux"]["cgroupsPath"] = command.parent + "/probe"
    command.write(config)
    ours = command("run", "-b", str(command.bundle), "probe").stdout
    root = str(command.state) + "-runc"
    theirs = subprocess.run(
        [runc, "--root", root, "run", "-b", str(command.bundle), "probe"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    ).stdout  # fmt: skip
    assert ours == theirs
