"""`wharf up` as root and as an ordinary user: health, restarts, no survivors, the view into /root-like places."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from controlplane.launcher.layout import Layout
from controlplane.launcher.local_agent import LocalAgent
from tests.integration.controlplane.stores import wait_for

ROOT = Path(__file__).resolve().parents[2]
CHILDREN = ("valkey", "web", "worker")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
pytestmark = [pytest.mark.timeout(240), pytest.mark.root]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Up:
    """One `wharf up`."""

    def __init__(self, home: Path, *, prefix: tuple[str, ...] = (), root: Path = ROOT, agent: bool = False) -> None:
        self.home = home
        self.options = [] if agent else ["--no-agent"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
            "WHARF_HOME": str(home),
            "WHARF_ADDRESS": "127.0.0.1",
            "WHARF_PORT": str(free_port()),
            "WHARF_NODE_PORT": str(free_port()),
            "PYTHONPATH": str(root),
            "WELCOME": "0",  # it would publish a port of this very machine: see test_welcome
        }
        self.root = root
        self.command = [*prefix, sys.executable, "-m", "controlplane.launcher"]
        self.out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, "up", *self.options], env=self.environment, cwd=self.root, stdout=self.out, stderr=self.out
        )

    def started(self) -> None:
        before = self.said().count("Console")
        self.start()
        wait_for(lambda: self.said().count("Console") > before or self.ended(), "the console's address is printed", 120)
        assert not self.ended(), self.said()

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def said(self) -> str:
        self.out.seek(0)
        return self.out.read().decode()

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.root, capture_output=True, text=True, check=False, timeout=120
        )

    def healthy(self) -> bool:
        try:
            answer = httpx.get(f"https://127.0.0.1:{self.environment['WHARF_PORT']}/api/v1/health", verify=False, timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def pid_of(self, name: str) -> int | None:
        """The launcher's child of that name, found as the kernel sees it."""
        assert self.process is not None
        marks = {"valkey": "valkey-server", "web": "controlplane.server", "worker": "celery", "agent": "--home"}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if marks[name] in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        return None

    def close(self) -> None:
        if self.process is not None and not self.ended():
            self.process.kill()
            self.process.wait()
        self.out.close()


@pytest.fixture
def up() -> Iterator[Up]:
    home = Path(tempfile.mkdtemp(prefix="wharf-up-"))
    made = Up(home)
    yield made
    made.close()
    shutil.rmtree(home)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def uid_of(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def restarted(up: Up, name: str, old: int) -> Callable[[], bool]:
    return lambda: up.pid_of(name) not in {None, old} and up.healthy()


@is_root
def test_first_start_prints_the_password_once_and_nothing_runs_as_root(up: Up) -> None:
    up.started()
    assert up.healthy()
    assert up.said().count("shown this once") == 1
    for name in CHILDREN:
        pid = up.pid_of(name)
        assert pid is not None
        assert uid_of(pid) == pwd.getpwnam("wharfinger").pw_uid
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "Groups:\t \n" in status
    assert (up.home / "agent").stat().st_uid == 0
    assert (up.home / "valkey.sock").stat().st_mode & 0o777 == 0o700
    again = up.call("up", "--no-agent")
    assert again.returncode == 1
    assert "up already" in again.stderr
    down = up.call("down")
    assert down.returncode == 0, down.stderr
    assert up.ended()
    assert "Nothing is up" in up.call("down").stdout
    up.started()
    assert up.said().count("shown this once") == 1


def wharf(up: Up, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**up.environment, "WHARF_CONFIG": str(up.home.with_suffix(".json"))}
    command = [sys.executable, "-m", "controlplane.cli.main", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


@is_root
def test_the_command_line_signs_in_and_works(up: Up) -> None:
    up.started()
    password = up.said().split("admin / ")[1].split()[0]
    server = f"https://127.0.0.1:{up.environment['WHARF_PORT']}"
    try:
        wrong = wharf(up, "login", server, "-u", "admin", "--password-stdin", stdin="not it\n")
        assert wrong.returncode == 4, wrong.stderr
        other = wharf(up, "login", server, "-u", "admin", "--password-stdin", "--ca-digest", "0" * 64, stdin=password)
        assert other.returncode == 4
        assert "another control plane" in other.stderr
        assert wharf(up, "login", server, "-u", "admin", "--password-stdin", stdin=f"{password}\n").returncode == 0
        done = wharf(up, "job", "run", "jobs.sleep", '{"seconds": 0.1}', "-f")
        assert (done.returncode, done.stdout) == (0, "Sleeping for 0.1 s.\n"), done.stderr
        failed = wharf(up, "job", "run", "jobs.fail", "-f")
        assert failed.returncode == 1
        assert "on purpose" in failed.stderr
        listed = json.loads(wharf(up, "job", "ls", "--kind", "jobs.fail", "--json").stdout)
        assert [row["state"] for row in listed] == ["error"]
        assert wharf(up, "job", "inspect", "nosuch").returncode == 3
        assert "unchanged" in wharf(up, "audit", "verify").stdout
        assert "job.created" in wharf(up, "event", "ls").stdout
        assert wharf(up, "user", "create", "bob").returncode == 0
        assert wharf(up, "user", "rm", "bob").returncode == 0
        assert wharf(up, "logout").returncode == 0
        assert wharf(up, "job", "ls").returncode == 4
    finally:
        up.home.with_suffix(".json").unlink(missing_ok=True)


@is_root
def test_every_child_comes_back_after_kill_9(up: Up) -> None:
    up.started()
    for name in CHILDREN:
        old = up.pid_of(name)
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_for(restarted(up, name, old), f"{name} is back", 60)


@is_root
def test_a_killed_launcher_leaves_no_survivors_and_no_lock(up: Up) -> None:
    up.started()
    pids = [up.pid_of(name) for name in CHILDREN]
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    wait_for(lambda: all(pid is not None and gone(pid) for pid in pids), "all children died with it", 20)
    up.started()
    assert up.healthy()


@is_root
def test_sigint_ends_everything(up: Up) -> None:
    up.started()
    pids = [up.pid_of(name) for name in CHILDREN]
    assert up.process is not None
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert all(pid is not None and gone(pid) for pid in pids)


@is_root
def test_a_child_that_keeps_dying_stops_all_and_is_named(up: Up) -> None:
    up.started()
    shutil.rmtree(up.home / "pki")
    (up.home / "pki").write_text("no directory")
    old = up.pid_of("web")
    assert old is not None
    os.kill(old, signal.SIGKILL)
    assert up.process is not None
    assert up.process.wait(120) == 1
    assert "web died 5 times" in up.said()
    assert "pki" in up.said(), "the end of the log is shown"


@is_root
def test_a_long_home_is_refused(up: Up) -> None:
    up.environment["WHARF_HOME"] = str(up.home / ("x" * 100))
    done = up.call("up", "--no-agent")
    assert done.returncode == 1
    assert "too long" in done.stderr


@is_root
def test_a_clone_where_the_user_may_not_go() -> None:
    """Program and home below a directory of mode 700, as a clone in /root is: the children see our files and nothing else."""
    closed = Path(tempfile.mkdtemp(prefix="wharf-closed-"))
    assert closed.stat().st_mode & 0o777 == 0o700
    secret = closed / "secret"
    secret.write_text("not for the web process")
    clone = closed / "clone"
    clone.mkdir(mode=0o755)
    for name in ("agent", "controlplane", "nodes", "registry"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", clone)
    for directory, _, files in os.walk(clone):
        os.chmod(directory, 0o755)
        for file in files:
            os.chmod(Path(directory) / file, 0o644)
    up = Up(clone / ".wharf", root=clone)
    try:
        up.started()
        assert up.healthy()
        pid = up.pid_of("web")
        assert pid is not None
        seen = Path(f"/proc/{pid}/root{closed}")
        assert sorted(path.name for path in seen.iterdir()) == ["clone"]
        assert closed.stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in closed.iterdir()) == ["clone", "secret"]
        mounts = Path(f"/proc/{pid}/mounts").read_text()
        flags = next(line.split()[3] for line in mounts.splitlines() if line.split()[1] == str(clone))
        assert "ro" in flags.split(",")
        assert str(clone) not in Path("/proc/self/mounts").read_text(), "the view leaked into the host's namespace"
    finally:
        up.close()
        shutil.rmtree(closed)


@is_root
def test_a_local_node_joins_survives_kill_9_and_leaves_nothing() -> None:
    home = Path(tempfile.mkdtemp(prefix="wharf-node-"))
    up = Up(home, agent=True)
    try:
        up.started()
        log = home / "log" / "agent.log"
        wait_for(lambda: log.exists() and "link up" in log.read_text(), "the agent's link is up", 60)
        old = up.pid_of("agent")
        assert old is not None
        assert uid_of(old) == 0
        assert "NoNewPrivs:\t0" in Path(f"/proc/{old}/status").read_text(), "containers would inherit it"
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: log.read_text().count("link up") == 2, "the agent is back", 60)
        assert up.call("down").returncode == 0
        assert up.ended()
        mark = LocalAgent(Layout(home)).places[1].removeprefix("/run/wharfinger-")
        left = [
            *Path("/run").glob(f"*{mark}*"),
            *Path("/sys/fs/cgroup").glob(f"*/*{mark}*"),
            *Path("/sys/class/net").glob(f"*{mark}*"),
        ]
        assert left == []
        assert not [pid for pid in Path("/proc").glob("[0-9]*") if mark in _command(pid)]
    finally:
        up.close()
        up.call("down")
        shutil.rmtree(home)


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


@is_root
def test_an_ordinary_user_gets_a_control_plane_without_a_node() -> None:
    home = Path(tempfile.mkdtemp(prefix="wharf-user-"))
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    up = Up(home / "wharf", prefix=("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--"))
    try:
        up.started()
        assert up.healthy()
        pid = up.pid_of("web")
        assert pid is not None
        assert uid_of(pid) == nobody.pw_uid
    finally:
        up.close()
        wait_for(lambda: gone(pid or 0), "the web process died with its launcher", 20)
        shutil.rmtree(home)
