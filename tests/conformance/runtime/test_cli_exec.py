"""exec, terminals, descriptors: what a caller passes on and is given."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import wait_for
from tests.pace import patience


def test_exec_options(command: Command) -> None:
    command.start("c1", "sleep", "1000")
    script = "id -u; id -g; pwd; echo $K; id -G; grep NoNewPrivs /proc/self/status; exit 5"
    words = ["-u", "1000:1001", "--cwd", "/tmp", "-e", "K=v", "-g", "7", "-g", "8", "--no-new-privs"]
    done = command("exec", *words, "c1", "sh", "-c", script, check=5)
    assert done.stdout.splitlines() == ["1000", "1001", "/tmp", "v", "1001 7 8", "NoNewPrivs:\t1"]


def test_exec_adds_capabilities(command: Command) -> None:
    command.start("c1", "sleep", "1000", capabilities=("CAP_KILL",))
    for words, mask in (((), 1 << 5), (("-c", "CAP_SYS_TIME", "--cap", "chown"), 1 << 5 | 1 << 25 | 1)):
        lines = command("exec", *words, "c1", "grep", "Cap", "/proc/self/status").stdout.splitlines()
        found = {line.split()[0]: int(line.split()[1], 16) for line in lines}
        assert found["CapEff:"] == found["CapPrm:"] == found["CapBnd:"] == mask


def test_exec_of_a_process_file(command: Command, tmp_path: Path) -> None:
    config = command.configure("sleep", "1000")
    command.create("c1")
    command("start", "c1")
    process = {
        **config["process"],
        "args": ["sh", "-c", "echo $A; id -u"],
        "env": ["A=b", "PATH=/bin"],
        "user": {"uid": 3, "gid": 3},
    }
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    assert command("exec", "-p", str(file), "c1").stdout == "b\n3\n"
    file.write_text("[]")
    assert "not a JSON object" in command("exec", "-p", str(file), "c1", check=255).stdout
    assert "cannot be empty" in command("exec", "c1", check=255).stdout


def test_exec_detached_with_a_pid_file(command: Command, tmp_path: Path) -> None:
    command.start("c1", "sleep", "1000")
    file = tmp_path / "pid"
    command("exec", "-d", "--pid-file", str(file), "c1", "sleep", "1001", stdout=subprocess.DEVNULL)
    pid = int(file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001001\x00"
    assert pid in json.loads(command("ps", "-f", "json", "c1").stdout)


def test_a_pid_that_cannot_be_told_leaves_no_process(command: Command) -> None:
    command.start("c1", "sleep", "1000")
    for words in (("exec",), ("exec", "-d")):
        assert "No such file" in command(*words, "--pid-file", "/absent/pid", "c1", "sleep", "1002", check=255).stdout
    assert len(json.loads(command("ps", "-f", "json", "c1").stdout)) == 1
    command("create", "--pid-file", "/absent/pid", "--bundle", str(command.bundle), "c2", check=1)
    command("run", "--pid-file", "/absent/pid", "--bundle", str(command.bundle), "c2", check=1)
    assert command("list", "-q").stdout.split() == ["c1"]


def test_exec_ignore_paused(command: Command) -> None:
    command.start("c1", "sleep", "1000")
    command("pause", "c1")
    waiting = subprocess.Popen(
        command.words("exec", "--ignore-paused", "c1", "echo", "ok"), stdout=subprocess.PIPE, text=True, env=command.environment
    )
    wait_for(lambda: len(json.loads(command("ps", "-f", "json", "c1").stdout)) == 2, "the exec in the frozen cgroup")
    command("resume", "c1")
    assert waiting.communicate(timeout=patience(20)) == ("ok\n", None)
    assert waiting.returncode == 0


def test_exec_in_a_cgroup_below(command: Command) -> None:
    config = command.configure("sleep", "1000")
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "cgroup"]
    command.write(config)
    command.create("c1")
    command("start", "c1")
    where = f"{command.parent}/c1"
    points = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup" and "pids" in options.split(","):
            points["pids"] = point
        elif kind == "cgroup2":
            points[""] = point
    controller = "pids" if "pids" in points else ""
    os.mkdir(f"{points[controller]}{where}/inner")
    done = command("exec", "--cgroup", f"{controller}:inner" if controller else "inner", "c1", "cat", "/proc/self/cgroup")
    inner = [line for line in done.stdout.splitlines() if line.endswith(f"{where}/inner")]
    assert len(inner) == 1
    assert controller in inner[0]
    os.rmdir(f"{points[controller]}{where}/inner")
    for path, word in (
        ("..", "is not a sub cgroup path"),
        ("absent", "absent/cgroup.procs: no such file"),
        ("nix:/", "unknown controller"),
    ):
        assert word in command("exec", "--cgroup", path, "c1", "true", check=255).stdout


def test_preserved_descriptors(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("three\n")
    behind = ["sh", "-c", 'exec "$@" 3<"$0"', str(file)]  # by a shell: the number 3 is taken in this process
    command.configure("sh", "-c", "cat <&3; ls /proc/self/fd")
    assert command.run("--preserve-fds", "1", behind=behind).stdout.splitlines()[:5] == ["three", "0", "1", "2", "3"]
    assert command.run(behind=behind, env={"LISTEN_FDS": "1"}).stdout.startswith("three\n")
    command.start("c1", "sleep", "1000")
    assert command("exec", "--preserve-fds=1", "c1", "cat", "/proc/self/fd/3", behind=behind).stdout == "three\n"


def test_console_socket(command: Command, tmp_path: Path) -> None:
    command.configure("sh", "-c", "tty; exec sleep 1000", terminal=True)
    assert "console socket" in command("create", "-b", str(command.bundle), "x", check=1).stdout
    assert "console socket" in command("run", "-d", "-b", str(command.bundle), "x", check=1).stdout
    assert command("list", "-q").stdout == ""
    path = str(tmp_path / "console.sock")
    with _listening(path) as server:
        command.create("t1", "--console-socket", path)
        master = _received(server)
    command("start", "t1")
    assert os.read(master, 100) == b"/dev/pts/0\r\n"
    os.close(master)
    assert "console socket" in command("exec", "-d", "-t", "t1", "true", check=255).stdout


def test_pidfd_socket(command: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "pidfd.sock")
    command.configure("sleep", "1000")
    with _listening(path) as server:
        command.create("c1", "--pidfd-socket", path)
        pidfd = _received(server)
    fields = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines() if ":\t" in line)
    assert int(fields["Pid"]) == command.pid("c1")
    os.close(pidfd)


def test_terminal_of_a_foreground_run(command: Command) -> None:
    command.configure("sh", "-c", "tty; read x; echo got $x; exit 4", terminal=True)
    master, slave = os.openpty()
    running = subprocess.Popen(
        command.words("run", "-b", str(command.bundle), "box"), stdin=slave, stdout=slave, stderr=slave, env=command.environment
    )
    os.close(slave)
    output = b""
    while b"/dev/pts/0" not in output:
        output += os.read(master, 4096)
    os.write(master, b"word\n")  # not earlier: a terminal that becomes raw forgets what was typed
    while True:
        try:
            output += os.read(master, 4096)
        except OSError:  # EIO: the last holder of the other end is gone
            break
    os.close(master)
    assert running.wait(timeout=patience(20)) == 4
    assert b"got word" in output


def _listening(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.settimeout(20)
    return server


def _received(server: socket.socket) -> int:
    connection, _ = server.accept()
    with connection:
        message, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert message
    return fds[0]
