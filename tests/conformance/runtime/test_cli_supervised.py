"""run and exec through a supervisor: the same as without one, and who does what."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import cgroup as cgroups
from agent.runtime.defaults import default_config
from agent.supervisor import start
from agent.supervisor.main import SOCKET
from tests.conformance.runtime.command import PROGRAM, REPOSITORY, Command
from tests.conformance.runtime.conftest import wait_for
from tests.conformance.runtime.differential import peers
from tests.conformance.runtime.differential.peers import Bundle
from tests.pace import patience


def ask(supervisor: str, operation: str) -> dict[str, Any]:
    """One question without parameters to the supervisor of a run directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(30)
        link.connect(os.path.join(supervisor, SOCKET))
        link.send(json.dumps({"n": 1, "op": operation}).encode())
        answer: dict[str, Any] = json.loads(link.recv(65536))["ok"]
        return answer


def supervisor_pid(supervisor: str) -> int:
    return int(ask(supervisor, "hello")["pid"])


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run directory with a supervisor."""
    home = tmp_path_factory.mktemp("supervisor")
    parent = f"/wharf-cli-supervisor-{os.getpid()}"
    start.ensure(str(home / "run"), str(home / "state"), parent)
    pid = supervisor_pid(str(home / "run"))
    pidfd = os.pidfd_open(pid)
    try:
        yield str(home / "run")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        wait_for(lambda: _ended(pidfd), "the supervisor's end")
        os.close(pidfd)
        assert cgroups.Cgroup(parent).remove(seconds=20)


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


@pytest.fixture
def served(tmp_path: Path, busybox_root: Path, supervisor: str) -> Iterator[Command]:
    made = Command(tmp_path, busybox_root, supervisor)
    yield made
    made.close()


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Running:
    """A foreground `run` of the bundle, begun."""

    def __init__(self, command: Command, *options: str) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command.words("run", "-b", str(command.bundle), *options, "box"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=command.environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.output = self.process.stdout
        assert self.output.readline() == "ready\n"

    def wait(self) -> int:
        with self.output:
            return self.process.wait(timeout=patience(20))


READY = ("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")


def test_run_is_done_by_the_supervisor(served: Command, supervisor: str) -> None:
    served.configure(*READY)
    running = Running(served)
    assert _parent_of(served.pid("box")) == supervisor_pid(supervisor)
    assert served.status("box") == "running"
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == 9
    assert served("list", "-q").stdout == ""
    wait_for(lambda: not cgroups.Cgroup(served.parent + "/box").exists(), "the cgroup's removal")


def test_statuses_and_messages_are_those_of_the_long_way(served: Command, tmp_path: Path) -> None:
    said = []
    log = tmp_path / "log"
    for supervisor in (served.supervisor, ""):
        served.supervisor = supervisor
        served.configure("sh", "-c", "cat; echo err >&2; exit 11")
        done = served.run(check=11, input="in\n", stdin=None)
        served.configure("no-such-program")
        refused = served("--log", str(log), "--log-format", "json", "run", "-b", str(served.bundle), "box", check=1)
        entry = json.loads(log.read_text().splitlines()[-1])
        said.append((done.stdout, refused.stdout, entry["msg"], served("run", "-b", "/nowhere", "box", check=1).stdout[30:]))
    assert said[0] == said[1]
    assert said[0][0] == "in\nerr\n"


def test_many_runs_of_one_id(served: Command) -> None:
    served.configure("true")
    for _ in range(10):
        served.run()


def test_exec(served: Command, supervisor: str) -> None:
    served.start("c1", "sleep", "1000")
    done = served("exec", "-e", "K=v", "--cwd", "/tmp", "-u", "5:6", "c1", "sh", "-c", "echo $K; pwd; id -u; exit 3", check=3)
    assert done.stdout == "v\n/tmp\n5\n"
    assert "executable file not found in $PATH" in served("exec", "c1", "absent", check=255).stdout
    served("pause", "c1")
    assert "cannot exec in a paused container" in served("exec", "c1", "true", check=255).stdout
    served("resume", "c1")
    executing = subprocess.Popen(
        served.words("exec", "c1", "sh", "-c", "echo $$; exec sleep 1000"),
        stdout=subprocess.PIPE,
        text=True,
        env=served.environment,
    )
    assert executing.stdout is not None
    with executing.stdout:
        executing.stdout.readline()
        (pid,) = [pid for pid in json.loads(served("ps", "-f", "json", "c1").stdout) if pid != served.pid("c1")]
        assert _parent_of(pid) == supervisor_pid(supervisor)
        executing.send_signal(signal.SIGTERM)
        assert executing.wait(timeout=patience(20)) == 143


def test_a_pid_that_cannot_be_told_leaves_no_process(served: Command) -> None:
    served.start("c1", "sleep", "1000")
    failed = served("exec", "--pid-file", "/absent/pid", "c1", "sleep", "1002", check=255).stdout
    assert failed.endswith("exec failed: [Errno 2] No such file or directory: '/absent/.pid.tmp'\"\n")
    assert json.loads(served("ps", "-f", "json", "c1").stdout) == [served.pid("c1")]
    served.configure("sleep", "1000")
    assert "No such file" in served.run("--pid-file", "/absent/pid", check=1).stdout
    assert served("list", "-q").stdout.split() == ["c1"]


def test_a_process_file_may_be_a_descriptor_of_the_caller_s(served: Command) -> None:
    served.start("c1", "sleep", "1000")
    process = {"args": ["echo", "told"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    read, write = os.pipe()
    with open(read, "rb") as file:
        os.write(write, json.dumps(process).encode())
        os.close(write)
        assert served("exec", "-p", f"/dev/fd/{file.fileno()}", "c1", pass_fds=(file.fileno(),)).stdout == "told\n"


@pytest.mark.parametrize("options", [("-d",), ("--no-new-keyring",), ("--preserve-fds", "0", "--debug")])
def test_what_needs_the_caller_is_done_by_the_caller(served: Command, supervisor: str, options: tuple[str, ...]) -> None:
    served.configure("sleep", "1000")
    running = subprocess.Popen(
        served.words(*(["--debug"] if "--debug" in options else []), "run", "-b", str(served.bundle),
                     *(option for option in options if option != "--debug"), "box"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=served.environment,
    )  # fmt: skip
    wait_for(lambda: "box" in served("list", "-q").stdout and served.status("box") == "running", "the container")
    assert _parent_of(served.pid("box")) != supervisor_pid(supervisor)
    served("kill", "box", "KILL")
    running.wait(timeout=patience(20))


def test_hooks_and_other_namespaces_are_done_by_the_caller(served: Command, tmp_path: Path) -> None:
    config = served.configure("true")
    config["hooks"] = {"poststart": [{"path": "/bin/touch", "args": ["touch", str(tmp_path / "hooked")]}]}
    served.write(config)
    served.run()
    assert (tmp_path / "hooked").exists()
    served.configure("hostname")
    (tmp_path / "volume").mkdir()
    config = served.configure("ls", "/tmp")
    config["mounts"].append({"destination": "/tmp", "type": "bind", "source": str(tmp_path / "volume"), "options": ["rbind"]})
    served.write(config)
    inside = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs t "$0" && touch "$0/ours" && exec "$@"', str(tmp_path / "volume")]
    assert served.run(behind=inside).stdout == "ours\n"  # the mount that only the caller sees


def test_limits_are_the_caller_s(served: Command) -> None:
    served.configure("sh", "-c", "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj")
    soft = 333
    limited = ["prlimit", f"--nofile={soft}:{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}", "--core=0:0"]
    done = served.run(behind=limited).stdout.splitlines()
    assert done == ["333", "0", Path("/proc/self/oom_score_adj").read_text().strip()]


def test_an_umask_that_is_not_given_is_the_caller_s(served: Command) -> None:
    """The supervisor's own closes everything."""
    config = served.configure("sh", "-c", "umask")
    del config["process"]["user"]["umask"]
    served.write(config)
    assert served.run(umask=0o027).stdout == "0027\n"
    config["process"]["args"] = ["sleep", "1000"]
    served.write(config)
    served.create("c1")
    served("start", "c1")
    assert served("exec", "c1", "sh", "-c", "umask", umask=0o013).stdout == "0013\n"


def test_a_terminal_is_relayed(served: Command, supervisor: str) -> None:
    served.configure("sh", "-c", "tty; read x; echo got $x; exit 4", terminal=True)
    master, slave = os.openpty()
    running = subprocess.Popen(
        served.words("run", "-b", str(served.bundle), "box"), stdin=slave, stdout=slave, stderr=slave, env=served.environment
    )
    os.close(slave)
    output = b""
    while b"/dev/pts/0\r\n" not in output:
        output += os.read(master, 4096)
    os.write(master, b"word\n")
    while True:
        try:
            output += os.read(master, 4096)
        except OSError:  # EIO: the last holder of the other end is gone
            break
    os.close(master)
    assert running.wait(timeout=patience(20)) == 4
    assert b"got word\r\n" in output


def test_a_run_survives_the_supervisor_s_upgrade(served: Command, supervisor: str) -> None:
    served.configure(*READY)
    running = Running(served)
    pid, before = served.pid("box"), supervisor_pid(supervisor)
    assert ask(supervisor, "upgrade")["pid"] == before
    assert (_parent_of(pid), served.pid("box")) == (before, pid)
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == 9
    assert served("list", "-q").stdout == ""


def test_a_killed_client_leaves_the_container_as_a_stopped_one(served: Command) -> None:
    served.configure("sh", "-c", "echo ready; sleep 0.3")
    running = Running(served)
    running.process.kill()
    running.wait()
    wait_for(lambda: served.status("box") == "stopped", "the end")
    served("delete", "box")


def test_modules_of_the_fast_path(served: Command) -> None:
    """What a start through a supervisor imports: every module more is a millisecond of each."""
    served.configure("true")
    program = (
        "import os, sys\nsys.argv = sys.argv[1:]\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "end = os._exit\nos._exit = lambda status: (print(status, *sys.modules), sys.stdout.flush(), end(status))\n"
        "from agent.runtime.cli.entry import main\nmain()\n"
    )
    words = [*PROGRAM[:3], "-c", program, "wharf-runtime", *served.words("run", "-b", str(served.bundle), "box")[4:]]
    done = subprocess.run(words, capture_output=True, text=True, env=served.environment, check=True, timeout=patience(60))
    status, *modules = done.stdout.split()
    assert status == "0"
    basic = "abc builtins codecs errno genericpath io marshal os os.path posix posixpath stat sys time zipimport"
    allowed = set(basic.split())
    allowed |= {"encodings", "encodings.utf_8", "encodings.aliases", "agent", "agent.runtime", "agent.runtime.cli"}
    allowed |= {f"agent.runtime.cli.{name}" for name in ("entry", "arguments", "tables", "thin", "handles")}
    allowed |= {"agent.protocol", "agent.protocol.errors", "agent.runtime.errors"}
    assert {name for name in modules if not name.startswith("_")} <= allowed
    assert not {"_struct", "_ctypes", "_datetime", "_sre"} & set(modules)


@pytest.mark.parametrize("process", ["report", "report_of_exec"])
def test_a_process_sees_the_same_container(supervisor: str, tmp_path: Path, busybox_root: Path, process: str) -> None:
    """Whoever makes it: everything that the probe of test_differential reports."""
    config = default_config(["true"], hostname="probe")
    reports = []
    for name in ("", supervisor):
        directory = tmp_path / f"place{len(reports)}"
        directory.mkdir()
        bundle = Bundle(peers.ours(name), directory, busybox_root, f"/wharf-runtime-cli-{os.getpid()}")
        reports.append(getattr(bundle, process)(config))
    assert cgroups.Cgroup(f"/wharf-runtime-cli-{os.getpid()}").remove(seconds=10)
    # the root of a file system on a disk shows where the bundle lies
    alone, served = (
        {what: value.replace(f"/place{number}/", "/") for what, value in one.items()} for number, one in enumerate(reports)
    )
    assert {what: (value, served.get(what)) for what, value in alone.items() if served.get(what) != value} == {}
    assert served.keys() == alone.keys()
