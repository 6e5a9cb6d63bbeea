"""config-linux.md, rootfsPropagation: of the container's root, and whether the host's mounts reach it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Runner

# the optional fields of mountinfo (proc_pid_mountinfo(5)), without their numbers
FIELDS = {
    "shared": {"shared"}, "rshared": {"shared"}, "private": set(), "rprivate": set(),
    "unbindable": {"unbindable"}, "runbindable": {"unbindable"}, "": set(),
}  # fmt: skip


def spread(word: str) -> Any:
    return lambda config: config["linux"].update(rootfsPropagation=word)


def fields(line: str) -> set[str]:
    return {field.partition(":")[0] for field in line.split(" - ")[0].split()[6:]}


@pytest.mark.parametrize("word", FIELDS)
def test_of_the_root(runner: Runner, word: str) -> None:
    lines = runner.run("cat", "/proc/self/mountinfo", change=spread(word)).lines
    (root,) = [line for line in lines if line.split()[4] == "/"]
    assert fields(root) == FIELDS[word]


@pytest.mark.parametrize(("word", "below"), [("private", False), ("rprivate", False), ("rshared", True), ("runbindable", False)])
def test_r_goes_down(runner: Runner, word: str, below: bool) -> None:
    lines = runner.run("cat", "/proc/self/mountinfo", change=spread(word)).lines
    (shm,) = [line for line in lines if line.split()[4] == "/dev/shm"]
    assert ("shared" in fields(shm)) is below


@pytest.fixture
def shared(rootfs: Path) -> Iterator[Path]:
    """A root filesystem on a mount whose mounts others hear of."""
    subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    subprocess.run(["mount", "--make-shared", rootfs], check=True)
    try:
        yield rootfs
    finally:
        subprocess.run(["umount", "-R", rootfs], check=True)


@pytest.mark.parametrize(("word", "arrives"), [("rslave", True), ("rprivate", False)])
def test_a_slave_hears_of_the_hosts_later_mounts(runner: Runner, shared: Path, word: str, arrives: bool) -> None:
    (shared / "late").mkdir()
    running = runner.start("sleep", "1000", root=shared, change=spread(word))
    subprocess.run(["mount", "-t", "tmpfs", "late", shared / "late"], check=True)
    seen = running.exec("cat", "/proc/self/mountinfo").output
    assert (" /late " in seen) is arrives
    running.end()
    runner.running.remove(running)


def test_a_container_mounts_for_itself_alone(runner: Runner, shared: Path) -> None:
    (shared / "inside").mkdir()

    def change(config: dict[str, Any]) -> None:
        config["linux"]["rootfsPropagation"] = "rslave"
        config["mounts"].append({"destination": "/inside", "type": "tmpfs", "source": "t"})

    running = runner.start("sleep", "1000", root=shared, change=change)
    assert f"{shared}/inside" not in Path("/proc/self/mountinfo").read_text()
    running.end()
    runner.running.remove(running)
