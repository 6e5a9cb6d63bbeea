"""`wharf` against the real thing: a control plane, two nodes, containers of busybox."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images
from tests.e2e.fleet import ROOT, ControlPlane, Host, fleet, page, wait_for
from tests.wharf import as_a_call

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
]
COMMAND = [sys.executable, "-m", "controlplane.cli.main"]
Done = subprocess.CompletedProcess[bytes]


class Cli:
    """`wharf`, signed in."""

    def __init__(self, control: ControlPlane, hosts: list[Host]) -> None:
        self.control = control
        self.hosts = hosts
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
            "WHARF_CONFIG": str(control.home / "context.json"),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "LOCAL": "from here",
        }

    def run(self, *arguments: str, stdin: bytes = b"") -> Done:
        """With a pipe on each side."""
        options: dict[str, Any] = {"env": self.environment, "cwd": ROOT, "capture_output": True, "timeout": 150}
        return subprocess.run([*COMMAND, *arguments], input=stdin, check=False, **options)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        """`run` that has to succeed; what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        """What a command says to programs; without a start of Python, for tests ask often how things stand."""
        code, output, errors = as_a_call([*arguments, "--json"], self.environment)
        assert code == 0, (arguments, output, errors)
        return json.loads(output)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *arguments], env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )


class Terminal:
    """`wharf` on a pseudo terminal."""

    def __init__(self, cli: Cli, *arguments: str, rows: int = 30, cols: int = 100) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, cols)
        self.seen = b""
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=cli.environment,
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, seconds: float = 0.05) -> None:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536)

    def expect(self, text: str, seconds: float = 40) -> None:
        """Until `text` was printed after the last thing that was expected."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, (text, self.seen)
            self.read()
        self.seen = self.seen.partition(text.encode())[2]

    def ends(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self.read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Two nodes; the image admin/box:1 imported from a root file system by `wharf image import`."""
    with fleet("n1", "n2") as (control, hosts):
        made = Cli(control, hosts)
        made("login", control.url, "-u", "admin", "--password-stdin", "--yes", stdin=control.password.encode())
        tar = images._rootfs({"www/index.html": "hello from the import\n"})
        options = ("--cmd", "httpd -f -vv -p 80 -h /www", "--env", "COLOUR=blue", "--workdir", "/www", "--expose", "80")
        made("repo", "create", "admin/box")
        pushed = json.loads(made("image", "import", "-", "admin/box:1", *options, "--json", stdin=tar))
        assert pushed["image"] == "admin/box:1"
        yield made


@pytest.fixture(scope="module")
def box(cli: Cli) -> str:
    """The name of a task's container that sleeps: box.1 of a service."""
    cli("service", "create", "--name", "box", "admin/box:1", "sh", "-c", "while :; do sleep 1000; done")
    return "box.1"


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_an_imported_image_runs_and_answers_on_both_nodes(cli: Cli) -> None:
    options = ("--replicas", "2", "--publish", "8099:80", "--label", "a=b", "--json")
    made = json.loads(cli("service", "create", "--name", "web", *options, "admin/box:1"))
    assert made["tasks"] == {"running": 2}, "create waited"
    for host in cli.hosts:
        assert page(host.address, 8099) == "hello from the import\n"
    shown = cli("service", "ls")
    assert "2/2" in shown
    assert "8099->80/tcp" in shown
    assert {row["hostname"] for row in cli.json("service", "ps", "web")} == {"n1", "n2"}
    assert cli("container", "exec", "web.1", "sh", "-c", "pwd; echo $COLOUR").split() == ["/www", "blue"]
    wait_for(lambda: {row["node"] for row in cli.json("image", "ls")} == {"n1", "n2"}, "both nodes have told of the image")

    def answered() -> set[str]:
        lines = cli.run("service", "logs", "web").stderr.decode().splitlines()
        return {line.split(" | ")[0] for line in lines if "response:200" in line}

    wait_for(lambda: answered() in ({"web.1@n1", "web.2@n2"}, {"web.1@n2", "web.2@n1"}), "a line in the log of each")
    cli("service", "rm", "web")


def test_create_says_why_it_cannot_place_and_ends_at_the_deadline(cli: Cli) -> None:
    done = cli.run(
        "service", "create", "--name", "moon", "--constraint", "node.labels.zone==moon", "--timeout", "2", "admin/box:1"
    )
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "0 of 1 tasks running" in said
    assert "2 nodes" in said
    assert "node.labels.zone==moon" in said
    cli("node", "label", "n2", "zone=moon")
    wait_for(lambda: [row["observed"] for row in cli.json("service", "ps", "moon")] == ["running"], "it is placed now")
    assert cli.json("service", "ps", "moon")[0]["hostname"] == "n2"
    cli("service", "rm", "moon")
    cli("node", "label", "n2", "zone-")
    assert cli.json("node", "inspect", "n2")["labels"] == {}


def test_create_gives_up_on_a_program_that_keeps_failing(cli: Cli) -> None:
    done = cli.run("service", "create", "--name", "bad", "--restart-delay", "0s", "admin/box:1", "sh", "-c", "exit 3")
    assert done.returncode == 1
    assert "keep failing" in done.stderr.decode()
    assert "code 3" in done.stderr.decode()
    cli("service", "rm", "bad")


def test_detached_and_refused(cli: Cli) -> None:
    assert cli.run("service", "create", "--name", "none", "admin/nosuch:1").returncode == 3
    done = cli.run("service", "create", "--name", "det", "--detach", "--constraint", "node.hostname==nosuch", "admin/box:1")
    assert done.returncode == 0
    assert done.stdout.decode().strip() == cli.json("service", "inspect", "det")["id"]
    cli("service", "rm", "det")
    wait_for(lambda: cli.run("service", "inspect", "det").returncode == 3, "it is gone")
    assert "There is no service det" in cli.run("service", "inspect", "det").stderr.decode()


def test_scale_update_and_rollback(cli: Cli) -> None:
    cli(
        "service",
        "create",
        "--name",
        "roll",
        "--stop-grace",
        "0s",
        "--env",
        "A=1",
        "--update-parallelism",
        "0",
        "admin/box:1",
        "sh",
        "-c",
        "exec sleep 1000",
    )
    assert "scaled to 2" in cli("service", "scale", "roll=2")
    cli("service", "update", "roll", "--env-add", "A=2", "--env-add", "LOCAL")
    assert cli("container", "exec", "roll.2", "sh", "-c", "echo $A $LOCAL").strip() == "2 from here"
    cli("service", "rollback", "roll")
    assert cli("container", "exec", "roll.2", "sh", "-c", "echo $A $LOCAL").strip() == "1"
    assert cli.run("service", "update", "roll").returncode == 2
    cli("service", "rm", "roll")


@pytest.mark.parametrize(
    ("command", "code"), [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["nosuch"], 127), (["/etc"], 126)], ids=str
)
def test_exec_ends_with_the_codes_of_the_process(cli: Cli, box: str, command: list[str], code: int) -> None:
    assert cli.run("container", "exec", box, *command).returncode == code


def test_exec_keeps_its_options_and_the_commands_apart(cli: Cli, box: str) -> None:
    done = cli.run(
        "container",
        "exec",
        "-e",
        "A=b",
        "-e",
        "LOCAL",
        "-w",
        "/etc",
        box,
        "sh",
        "-c",
        "pwd; echo $A $LOCAL; echo e >&2; echo $1",
        "--json",
        "-i",
    )
    assert done.stdout.decode().splitlines() == ["/etc", "b from here", "-i"]
    assert done.stderr == b"e\n"


def test_a_pipe_is_closed_by_half(cli: Cli, box: str) -> None:
    assert cli.run("container", "exec", "-i", box, "cat", stdin=b"hi\n").stdout == b"hi\n"
    data = os.urandom(1 << 20)
    assert cli.run("container", "exec", "-i", box, "cat", stdin=data).stdout == data
    assert cli.run("container", "exec", box, "cat", stdin=b"not asked for").stdout == b"", "without -i nothing is read"


def test_a_terminal_is_resized_hears_ctrl_c_and_is_given_back(cli: Cli, box: str, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "container", "exec", "-it", box, "sh")
    terminals.append(terminal)
    terminal.expect("# ")
    terminal.type("stty size; echo $TERM\r")
    terminal.expect("30 100")
    terminal.expect("xterm")
    assert termios.tcgetattr(terminal.slave) != terminal.before, "raw while it runs"
    terminal.resize(50, 120)
    os.kill(terminal.process.pid, signal.SIGWINCH)
    deadline = time.monotonic() + 20
    while b"50 120" not in terminal.seen:  # the size travels beside the input: the first answers may still be the old one
        assert time.monotonic() < deadline, terminal.seen
        terminal.type("stty size\r")
        terminal.read(0.5)
    terminal.type("echo go-$((1 + 1)); sleep 1000\r")
    terminal.expect("go-2")  # only now is the shell's line editor, which takes Ctrl-C for a key, out of the way
    terminal.type("\x03")
    terminal.type("echo still-$((40 + 2))\r")
    terminal.expect("still-42")
    terminal.type("exit 9\r")
    assert terminal.ends() == 9
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_the_terminal_is_given_back_to_who_kills_us(cli: Cli, box: str, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "container", "exec", "-it", box, "sh")
    terminals.append(terminal)
    terminal.expect("# ")
    terminal.process.terminate()
    assert terminal.ends() == 143
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_create_shows_its_progress_on_a_terminal(cli: Cli, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "service", "create", "--name", "bar", "admin/box:1")
    terminals.append(terminal)
    terminal.expect("bar")
    terminal.expect("1/1")
    terminal.expect("Service bar runs")
    assert terminal.ends() == 0
    cli("service", "rm", "bar")


def test_logs_follow_until_the_container_ends(cli: Cli) -> None:
    script = "echo one; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo two; echo three >&2"
    cli("service", "create", "--name", "talk", "--restart-condition", "none", "admin/box:1", "sh", "-c", script)
    name = cli.json("container", "inspect", "talk.1")["name"]
    following = cli.start("container", "logs", "-f", name)
    assert following.stdout is not None
    assert following.stdout.readline() == b"one\n"
    cli("container", "exec", name, "sh", "-c", "echo > /tmp/go")
    out, _ = following.communicate(timeout=60)
    assert (out, following.returncode) == (b"two\n", 0)
    assert cli("container", "logs", name, "--tail", "1") == ""
    assert cli.run("container", "logs", name, "--tail", "1").stderr == b"three\n"
    stamped = cli("container", "logs", name, "-t", "--since", "1h").splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two"]
    assert stamped[0][10] == "T"
    assert cli("container", "logs", name, "--until", "1h") == ""
    entries = [json.loads(line) for line in cli("service", "logs", "talk", "--json").splitlines()]
    assert [(entry["stream"], entry["text"]) for entry in entries] == [("stdout", "one"), ("stdout", "two"), ("stderr", "three")]
    cli("service", "rm", "talk")


def test_attach_sees_and_writes_and_leaves(cli: Cli, terminals: list[Terminal]) -> None:
    cli("service", "create", "--name", "shell", "--tty", "admin/box:1", "sh", "-c", "while :; do echo tick; sleep 0.2; done")
    terminal = Terminal(cli, "container", "attach", "-t", "shell.1")
    terminals.append(terminal)
    terminal.expect("tick")
    terminal.type("\x10\x11")
    assert terminal.ends() == 0
    assert cli.json("container", "inspect", "shell.1")["state"] == "running"
    cli("service", "rm", "shell")


def test_acts_on_containers(cli: Cli, box: str) -> None:
    before = cli.json("container", "inspect", box)
    assert "Paused" in cli("container", "pause", box)
    wait_for(lambda: cli.json("container", "inspect", box)["state"] == "paused", "it is paused")
    cli("container", "unpause", box)
    wait_for(lambda: cli.json("container", "inspect", box)["state"] == "running", "it runs again")
    rows = wait_for(lambda: [r for r in cli.json("container", "stats", box) if r["memory_used"]], "a sample has come", 60)
    assert rows[0]["pids"] >= 1
    cli("container", "kill", "-s", "KILL", before["container_id"][:12])
    wait_for(
        lambda: "box.1." in cli("container", "ls") and cli.json("container", "inspect", box)["id"] != before["id"], "replaced"
    )
    assert before["name"] not in cli("container", "ls")
    assert before["name"] in cli("container", "ls", "-a")
    assert cli.run("container", "stop", "nosuch").returncode == 3


def test_images_are_pulled_to_and_removed_from_a_node(cli: Cli, tmp_path: Path) -> None:
    layout = images.layout(tmp_path / "layout", command=["sleep", "9"], files={"x": "only here"})
    assert b"wharf repo create admin/pulled" in cli.run("image", "push", str(layout), "admin/pulled:2").stderr
    cli("repo", "create", "admin/pulled")
    pushed = cli.json("image", "push", str(layout), "admin/pulled:2")
    index = json.loads((layout / "index.json").read_text())
    assert pushed["digest"] == index["manifests"][0]["digest"], "byte for byte"
    cli("image", "pull", "admin/pulled:2", "n2")

    def nodes() -> list[str]:
        return [row["node"] for row in cli.json("image", "ls") if any("admin/pulled" in tag for tag in row["tags"])]

    wait_for(lambda: nodes() == ["n2"], "n2 reports it")
    cli("image", "rm", "admin/pulled:2", "n2")
    wait_for(lambda: nodes() == [], "it is gone from n2")
    assert cli.json("repo", "tags", "admin/pulled")[0]["digest"] == pushed["digest"]
    assert cli.run("image", "pull", "admin/nosuch:1", "n1").returncode == 3


def test_nodes_are_drained_and_tokens_made(cli: Cli) -> None:
    assert [row["hostname"] for row in sorted(cli.json("node", "ls"), key=lambda row: row["hostname"])] == ["n1", "n2"]
    cli(
        "service",
        "create",
        "--name",
        "moves",
        "--stop-grace",
        "0s",
        "--constraint",
        "node.hostname!=nosuch",
        "admin/box:1",
        "sh",
        "-c",
        "exec sleep 999",
    )
    home = cli.json("container", "inspect", "moves.1")["hostname"]
    cli("node", "drain", home)
    wait_for(
        lambda: {"n1", "n2"} - {home} == {row["hostname"] for row in cli.json("container", "ls", "--service", "moves")}, "moved"
    )
    cli("node", "activate", home)
    cli("service", "rm", "moves")
    line = cli("node", "token", "--uses", "3", "--expires", "2h", "--approval").strip()
    assert line.startswith("wharf-agent join --token ")
    assert line.endswith(cli.control.url.removeprefix("https://"))
    newest = max(cli.json("node", "tokens"), key=lambda row: row["created_at"])
    assert (newest["uses_left"], newest["needs_approval"]) == (3, True)
    cli("node", "tokens", "--revoke", newest["id"])
    assert cli.run("node", "inspect", "nosuch").returncode == 3
