"""A container that is written to a directory and goes on from there. criu works in the guest of `make test-v2`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.defaults import default_config
from tests.conformance.runtime.conftest import PARENT, wait_for
from tests.pace import patience


@cache
def refusal() -> str:
    """Why criu does not work here; "" when it does."""
    try:
        done = subprocess.run(["criu", "check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError:
        return "criu is not installed"
    return f"criu check: {' / '.join(done.stdout.strip().splitlines()[-2:])}" if done.returncode else ""


class Shell:
    """The command line, with state in a directory of the test."""

    def __init__(self, tmp_path: Path, root: Path) -> None:
        self.tmp_path, self.bundle, self.state = tmp_path, tmp_path / "bundle", tmp_path / "state"
        self.bundle.mkdir()
        self.output = tmp_path / "output"
        self.root = root
        # pipes for 0, 1, 2, as a shim has them; what the container says ends up in `output`
        self.stdin, self._kept = os.pipe()
        with self.output.open("wb") as target:
            self._sink = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=target)

    def configure(self, script: str, **linux: Any) -> None:
        config = default_config(["sh", "-c", script])
        config["root"]["path"] = str(self.root)
        config["linux"]["cgroupsPath"] = f"{PARENT}/checkpoint"
        config["linux"].update(linux)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def __call__(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agent.runtime.cli", "--root", str(self.state), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def detached(self, *args: str) -> None:
        """A command whose streams the container keeps."""
        command = [sys.executable, "-m", "agent.runtime.cli", "--root", str(self.state), *args]
        said = self._sink.stdin
        done = subprocess.run(command, stdin=self.stdin, stdout=said, stderr=said, timeout=patience(60), check=False)
        assert done.returncode == 0, self.output.read_text()

    def end(self) -> None:
        self("delete", "-f", "c", check=False)
        os.close(self.stdin)
        os.close(self._kept)
        self._sink.communicate(timeout=patience(60))


@pytest.fixture
def shell(tmp_path: Path, rootfs: Path) -> Iterator[Shell]:
    made = Shell(tmp_path, rootfs)
    try:
        yield made
    finally:
        made.end()


COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"


def last(shell: Shell) -> int:
    lines = shell.output.read_text().split() if shell.output.exists() else []
    return int(lines[-1]) if lines else 0


@pytest.mark.skipif(bool(refusal()), reason=refusal())
def test_it_goes_on_where_it_was(shell: Shell) -> None:
    shell.configure(COUNT)
    images = str(shell.tmp_path / "images")
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    wait_for(lambda: last(shell) >= 2, "the count")
    shell("checkpoint", "--image-path", images, "--empty-ns", "network", "c")
    assert "does not exist" in shell("state", "c", check=False).stderr
    seen = last(shell)
    shell.detached("restore", "-d", "-b", str(shell.bundle), "--image-path", images, "--empty-ns", "network", "c")
    assert json.loads(shell("state", "c").stdout)["status"] == "running"
    wait_for(lambda: last(shell) > seen, "the count to go on")
    numbers = [int(word) for word in shell.output.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1))
    pid = json.loads(shell("state", "c").stdout)["pid"]
    assert f"{PARENT}/checkpoint" in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.skipif(bool(refusal()), reason=refusal())
def test_it_may_run_on_meanwhile(shell: Shell) -> None:
    shell.configure(COUNT)
    images = str(shell.tmp_path / "images")
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    wait_for(lambda: last(shell) >= 1, "the count")
    shell("checkpoint", "--image-path", images, "--empty-ns", "network", "--leave-running", "c")
    seen = last(shell)
    wait_for(lambda: last(shell) > seen, "the count to go on")
    assert (shell.tmp_path / "images" / "inventory.img").exists()


def test_without_criu_it_is_refused_with_what_to_do(shell: Shell) -> None:
    shell.configure("sleep 1000")
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    done = shell("--criu", "/no/such/criu", "checkpoint", "--image-path", str(shell.tmp_path / "images"), "c", check=False)
    assert done.returncode == 1
    assert "install the package criu" in done.stderr
    assert json.loads(shell("state", "c").stdout)["status"] == "running"


@pytest.mark.parametrize(("path", "why"), [("/images", "must be relative"), ("../absent", "/absent is no directory")])
def test_a_parent_path_that_cannot_be_is_told_before_criu_is_asked(shell: Shell, path: str, why: str) -> None:
    shell.configure("sleep 1000")
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    given = ("--image-path", str(shell.tmp_path / "images"), "--parent-path", path)
    done = shell("--criu", "/no/such/criu", "checkpoint", "--pre-dump", *given, "c", check=False)
    assert done.returncode == 1
    assert "--parent-path" in done.stderr
    assert why in done.stderr


@pytest.mark.skipif(bool(refusal()), reason=refusal())
def test_a_dump_builds_on_an_earlier_one(shell: Shell) -> None:
    shell.configure(COUNT)
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    wait_for(lambda: last(shell) >= 1, "the count")
    first, second = (str(shell.tmp_path / name) for name in ("first", "second"))
    shell("checkpoint", "--pre-dump", "--image-path", first, "--empty-ns", "network", "c")
    shell("checkpoint", "--image-path", second, "--parent-path", "../first", "--empty-ns", "network", "c")
    assert os.path.samefile(f"{second}/parent", first)


@pytest.mark.skipif(not refusal(), reason="criu works here")
def test_a_kernel_that_criu_cannot_work_with_is_named(shell: Shell) -> None:
    shell.configure("sleep 1000")
    shell.detached("run", "-d", "-b", str(shell.bundle), "c")
    done = shell("checkpoint", "--image-path", str(shell.tmp_path / "images"), "c", check=False)
    assert done.returncode == 1
    assert os.uname().release in done.stderr or "install the package criu" in done.stderr
    assert json.loads(shell("state", "c").stdout)["status"] == "running"


def test_restore_of_nothing_is_refused_and_leaves_nothing(shell: Shell) -> None:
    shell.configure("sleep 1000")
    (shell.tmp_path / "empty").mkdir()
    done = shell("restore", "-b", str(shell.bundle), "--image-path", str(shell.tmp_path / "empty"), "c", check=False)
    assert done.returncode == 1
    assert "install the package criu" in done.stderr or os.uname().release in done.stderr or "no checkpoint" in done.stderr
    assert list(shell.state.iterdir()) == []
