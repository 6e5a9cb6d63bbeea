"""podman with our runtime: a storage root of its own, an image made here, and a script of what people type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import cgroup as cgroups
from tests.conformance.runtime.command import PROGRAM
from tests.conformance.runtime.conftest import wait_for
from tests.nodes import remove_pretended_cgroups
from tests.pace import patience

# a rlimit above this process's own cannot be given without CAP_SYS_RESOURCE, and podman's default is
RUN = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none", "--cgroup-parent")
IMAGE = "localhost/wharf-busybox"


class Podman:
    def __init__(self, directory: Path, program: str) -> None:
        self.runtime = directory / "wharf-runtime"
        self.runtime.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} --root {directory}/state "$@"\n')
        self.runtime.chmod(0o755)
        self.parent = f"/wharf-podman-{os.getpid()}"
        (directory / "containers.conf").write_text("[engine]\n")
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\nrunroot = "{directory}/run"\ngraphroot = "{directory}/root"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "TMPDIR": str(directory),
            "WHARF_SUPERVISOR": "",
        }
        self.words = [
            program, "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--tmpdir", f"{directory}/tmp",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", str(self.runtime),
        ]  # fmt: skip

    def __call__(self, *args: str, check: int = 0) -> str:
        """What it prints, errors included."""
        done = subprocess.run(
            [*self.words, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=self.environment, timeout=patience(60), check=False,
        )  # fmt: skip
        assert done.returncode == check, f"{args}: {done.stdout}"
        return done.stdout.strip()

    def run(self, *args: str, check: int = 0) -> str:
        return self("run", *RUN, self.parent, *args, check=check)

    def close(self) -> None:
        self("rm", "-f", "-a", "-t", "0")
        self("rmi", "-f", "-a")
        wait_for(lambda: cgroups.Cgroup(self.parent).remove(seconds=1), "the cgroups' removal")
        remove_pretended_cgroups(self.parent[1:])


@pytest.fixture
def podman(tmp_path: Path, busybox_root: Path) -> Iterator[Podman]:
    program = shutil.which("podman")
    if program is None or shutil.which("conmon") is None:
        pytest.skip("podman and conmon are not installed")
    with tempfile.TemporaryDirectory(prefix="wharf-") as short:  # podman takes no runroot above 50 characters
        made = Podman(Path(short), program)
        image = tmp_path / "image.tar"
        made_of = [f"--exclude=./{name}/*" for name in ("proc", "sys", "dev")]  # of containers that used this root
        subprocess.run(["tar", "-C", str(busybox_root), *made_of, "-cf", str(image), "."], check=True)
        made("import", "-q", str(image), IMAGE)
        yield made
        made.close()


def test_a_session(podman: Podman) -> None:
    assert podman.run("--rm", IMAGE, "echo", "hi") == "hi"
    podman.run("--rm", IMAGE, "sh", "-c", "exit 7", check=7)
    assert "not found" in podman.run("--rm", IMAGE, "no-such-program", check=127)
    assert "permission denied" in podman.run("--rm", IMAGE, "/etc/passwd", check=126)
    assert podman.run("-t", "--rm", IMAGE, "tty") == "/dev/pts/0"

    podman.run("-d", "--name", "c1", IMAGE, "sh", "-c", "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done")
    assert podman("ps", "--format", "{{.Names}}") == "c1"
    wait_for(lambda: sorted(podman("logs", "c1").splitlines()) == ["err", "out"], "the output")
    assert podman("exec", "c1", "echo", "in") == "in"
    assert podman("exec", "-e", "K=v", "-w", "/tmp", "-u", "1000", "c1", "sh", "-c", "echo $K; pwd; id -u") == "v\n/tmp\n1000"
    assert "not found" in podman("exec", "c1", "no-such-program", check=127)
    podman("exec", "-d", "c1", "sleep", "1000")
    assert podman("exec", "-t", "c1", "tty") == "/dev/pts/0"
    assert "sleep 1000" in podman("top", "c1", "args")
    name, pids = podman("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "c1").split()
    assert (name, int(pids) >= 2) == ("c1", True)
    state = json.loads(podman("inspect", "c1"))[0]
    assert (state["State"]["Status"], state["OCIRuntime"]) == ("running", str(podman.runtime))
    assert Path(f"/proc/{state['State']['Pid']}").exists()
    podman("pause", "c1")
    assert podman("inspect", "--format", "{{.State.Status}}", "c1") == "paused"
    podman("unpause", "c1")
    podman("update", "--memory", "100m", "c1")
    podman("kill", "-s", "CONT", "c1")
    podman("stop", "-t", "10", "c1")
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1") == "exited 3"
    podman("start", "c1")
    podman("rm", "-f", "-t", "0", "c1")
    assert podman("ps", "-a", "-q") == ""


def test_options_reach_the_container(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    script = "cat /file; touch /scratch/x; touch /x 2>&1; grep -E 'CapEff|NoNewPrivs' /proc/self/status;"
    script += " cat /proc/sys/net/ipv4/ip_forward"
    words = ["--memory", "64m", "--pids-limit", "50", "--read-only", "--cap-drop", "all", "--tmpfs", "/scratch"]
    words += ["-v", f"{tmp_path}/file:/file:ro", "--security-opt", "no-new-privileges", "--sysctl", "net.ipv4.ip_forward=1"]
    assert podman.run("--rm", *words, IMAGE, "sh", "-c", script).splitlines() == [
        "from the host",
        "touch: /x: Read-only file system",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "1",
    ]
