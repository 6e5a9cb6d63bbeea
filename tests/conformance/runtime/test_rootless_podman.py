"""podman of an ordinary user with our runtime: it runs us as root of a user namespace that it made itself."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import wait_for
from tests.conformance.runtime.ordinary import INTERPRETER, RANGE, Ordinary, reachable

NEEDED = ("podman", "conmon", "newuidmap")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"not all of {', '.join(NEEDED)} are installed (packages podman, uidmap)"
)
IMAGE = "localhost/wharf-busybox"
RUN = ("run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


class Podman:
    def __init__(self, user: Ordinary) -> None:
        self.user, self.runtime = user, user.home / "wharf-runtime"
        self.runtime.write_text(f'#!/bin/sh\nexec {INTERPRETER} -I -S {user.home}/program/agent/runtime/cli/__main__.py "$@"\n')
        self.runtime.chmod(0o755)
        self.words = [
            "podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--runtime", str(self.runtime),
        ]  # fmt: skip

    def __call__(self, *args: str, check: int = 0) -> str:
        """What it prints, errors included, but for its remarks on the machine."""
        done = self.user.shell(shlex.join([*self.words, *args]))
        assert done.returncode == check, f"{args}: {done.stdout}"
        return "\n".join(line for line in done.stdout.splitlines() if "level=warning" not in line)

    def close(self) -> None:
        self("rm", "-f", "-a", "-t", "0")
        self.user.shell(shlex.join(["podman", "unshare", "rm", "-rf", f"{self.user.home}/.local"]))
        for pid in self.user.pids():  # podman leaves one process that keeps its namespaces
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.user.pids() == [], "the end of his processes")


@pytest.fixture
def podman(busybox_root: Path) -> Iterator[Podman]:
    if not reachable():
        pytest.skip("the interpreter lies in a directory that is closed to other users")
    user = Ordinary(busybox_root)
    user.known({"subuid": RANGE, "subgid": RANGE})
    made = Podman(user)
    try:
        image = user.home / "image.tar"
        subprocess.run(["tar", "-C", str(user.bundle / "rootfs"), "-cf", str(image), "."], check=True)
        made("import", "-q", str(image), IMAGE)
        yield made
    finally:
        made.close()
        user.close()


def test_a_session(podman: Podman) -> None:
    assert podman(*RUN, "--rm", IMAGE, "cat", "/proc/self/uid_map").split() == [
        "0",
        str(podman.user.uid),
        "1",
        "1",
        *map(str, RANGE),
    ]
    podman(*RUN, "--rm", IMAGE, "sh", "-c", "exit 7", check=7)
    assert podman("run", "--rm", "--network", "host", IMAGE, "readlink", "/proc/self/ns/net") == os.readlink("/proc/self/ns/net")
    podman(*RUN, "-d", "--name", "c1", IMAGE, "sh", "-c", "trap 'exit 3' TERM; echo out; while :; do sleep 0.1; done")
    wait_for(lambda: podman("logs", "c1") == "out", "the output")
    assert podman("exec", "c1", "id", "-u") == "0"
    assert podman("exec", "-u", "1000:1000", "-t", "c1", "sh", "-c", "id -u; tty").split() == ["1000", "/dev/pts/0"]
    assert podman("inspect", "--format", "{{.State.Status}} {{.OCIRuntime}}", "c1") == f"running {podman.runtime}"
    podman("stop", "-t", "10", "c1")
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1") == "exited 3"
