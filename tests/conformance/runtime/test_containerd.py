"""containerd with our runtime: a daemon in namespaces of its own, an image made here, and what people type to `ctr`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import cgroup as cgroups
from tests.conformance.runtime.command import PROGRAM, REPOSITORY
from tests.conformance.runtime.conftest import wait_for

IMAGE = "localhost/wharf-busybox:latest"
PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2")
UNPACKED = REPOSITORY / "build/containerd/usr/bin"  # by deploy/prepare
CONFIG = """version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{home}/containerd.sock"
"""
# containerd and its shims keep sockets in /run/containerd, whatever the configuration says
DAEMON = 'mount -t tmpfs -o mode=755 run /run && ip link set lo up && exec containerd --config "$0" >"$1" 2>&1'


def layer(directory: Path, image: Path) -> None:
    """The directory as an image of one layer, as `docker save` writes it."""
    tree = image.with_name("layer.tar")
    outside = ("proc", "sys", "dev")  # of containers that used this root

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if entry.name.startswith(tuple(f"{name}/" for name in outside)) else entry

    with tarfile.open(tree, "w") as archive:
        for path in sorted(directory.iterdir()):
            archive.add(path, path.name, filter=kept)
    digest = hashlib.sha256(tree.read_bytes()).hexdigest()
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    image.with_name("config.json").write_text(json.dumps(config))
    image.with_name("manifest.json").write_text(
        json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": [tree.name]}])
    )
    with tarfile.open(image, "w") as archive:
        for name in ("manifest.json", "config.json", tree.name):
            archive.add(image.with_name(name), name)


class Containerd:
    """A daemon and its client. Its shims, subreapers, end with the pid namespace."""

    def __init__(self, home: Path, path: str) -> None:
        self.home = home
        self.runtime = home / "wharf-runtime"
        self.runtime.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
        self.runtime.chmod(0o755)
        self.parent = f"/wharf-ctr-{os.getpid()}"
        (home / "config.toml").write_text(CONFIG.format(home=home))
        self.environment = {**os.environ, "PATH": path, "WHARF_SUPERVISOR": "", "CONTAINERD_SNAPSHOTTER": "native"}
        self.environment["CONTAINERD_ADDRESS"] = f"{home}/containerd.sock"
        apart = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.daemon = subprocess.Popen(
            [*apart, "sh", "-c", DAEMON, str(home / "config.toml"), str(home / "log")], env=self.environment
        )
        self.inside = ""
        wait_for(self._answers, "containerd")

    def _answers(self) -> bool:
        assert self.daemon.poll() is None, (self.home / "log").read_text()
        self.inside = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text().strip()
        return bool(self.inside) and (self.home / "containerd.sock").exists() and self._call("version").returncode == 0

    def words(self, *args: str) -> list[str]:
        return ["nsenter", "-t", self.inside, "-m", "-p", "--", "ctr", *args]

    def _call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=self.environment, timeout=60, check=False,
        )  # fmt: skip

    def __call__(self, *args: str, check: int = 0) -> str:
        """What ctr prints, errors included."""
        done = self._call(*args)
        assert done.returncode == check, f"{args}: {done.stdout}"
        return done.stdout.strip()

    def options(self, id: str) -> tuple[str, ...]:
        return ("--runc-binary", str(self.runtime), "--cgroup", f"{self.parent}/{id}")

    def run(self, id: str, *args: str, options: tuple[str, ...] = ("--rm",), check: int = 0) -> str:
        return self("run", *options, *self.options(id), IMAGE, id, *args, check=check)

    def status(self, id: str) -> str:
        lines = [line.split() for line in self("task", "ls").splitlines()]
        return next((line[2] for line in lines if line[0] == id), "")

    def close(self) -> None:
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(timeout=20)
        cgroup = cgroups.Cgroup(self.parent)
        wait_for(lambda: not cgroup.exists() or cgroup.remove(seconds=1), "the cgroups' removal")


@pytest.fixture
def containerd(tmp_path: Path, busybox_root: Path) -> Iterator[Containerd]:
    path = f"{os.environ['PATH']}:{UNPACKED}"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed")
    made = Containerd(tmp_path, path)
    try:
        layer(busybox_root, tmp_path / "image.tar")
        made("image", "import", str(tmp_path / "image.tar"))
        yield made
    finally:
        made.close()


def test_a_session(containerd: Containerd) -> None:
    assert containerd.run("c1", "sh", "-c", "echo hi; id -u; umask; exit 7", check=7).splitlines() == ["hi", "0", "0022"]
    said = containerd.run("c1", "no-such-program", check=1)
    assert 'exec: "no-such-program": executable file not found in $PATH' in said
    assert containerd("task", "ls", "-q") == ""

    trap = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    containerd.run("c2", "sh", "-c", trap, options=("-d", "--null-io"))
    assert containerd.status("c2") == "RUNNING"
    assert containerd("task", "exec", "--exec-id", "e1", "c2", "sh", "-c", "echo in; exit 5", check=5) == "in"
    assert len(containerd("task", "ps", "c2").splitlines()) >= 2
    assert "memory.usage" in containerd("task", "metrics", "c2")
    containerd("task", "pause", "c2")
    assert containerd.status("c2") == "PAUSED"
    containerd("task", "resume", "c2")
    assert containerd.status("c2") == "RUNNING"
    assert "must be stopped" in containerd("task", "rm", "c2", check=1)
    containerd("task", "kill", "-s", "TERM", "c2")
    wait_for(lambda: containerd.status("c2") == "STOPPED", "the end")
    assert "exit code 3" in containerd("task", "rm", "c2")
    containerd("container", "rm", "c2")
    assert containerd("container", "ls", "-q") == ""


def test_options_reach_the_container(containerd: Containerd, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("from the host\n")
    script = "exec 2>&1; pwd; cat /v/file; touch /v/x; touch /x; echo $K; head -1 /proc/self/uid_map;"
    script += " grep Seccomp: /proc/self/status"
    words = ["--rm", "--read-only", "--cwd", "/tmp", "--env", "K=v", "--memory-limit", "50000000", "--seccomp"]
    words += ["--mount", f"type=bind,src={tmp_path}/volume,dst=/v,options=rbind:ro"]
    lines = containerd.run("c1", "sh", "-c", script, options=tuple(words)).splitlines()
    assert [line.split() for line in lines] == [
        ["/tmp"], ["from", "the", "host"], ["touch:", "/v/x:", "Read-only", "file", "system"],
        ["touch:", "/x:", "Read-only", "file", "system"], ["v"], ["0", "0", "4294967295"], ["Seccomp:", "2"],
    ]  # fmt: skip


def test_a_terminal(containerd: Containerd) -> None:
    master, slave = os.openpty()
    client = subprocess.Popen(
        containerd.words("run", "--rm", "-t", *containerd.options("c1"), IMAGE, "c1", "tty"),
        stdin=slave, stdout=slave, stderr=slave, env=containerd.environment,
    )  # fmt: skip
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 4096):
            output += chunk
    except OSError as error:
        if error.errno != errno.EIO:  # the other end has closed
            raise
    os.close(master)
    assert client.wait(timeout=30) == 0
    assert b"/dev/pts/0" in output
