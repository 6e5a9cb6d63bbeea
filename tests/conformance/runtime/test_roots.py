"""Root filesystems as the graph drivers hand them out: a device's file system, and one that a program serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import plan as plans
from agent.runtime.defaults import default_config
from agent.runtime.errors import RuntimeFailed
from agent.sys import fuse
from agent.sys.mount import Mount
from tests.conformance.runtime.conftest import PARENT, Runner
from tests.contract import loopdisk
from tests.contract.daemons import adopted

needs_fuse = pytest.mark.skipif(fuse.program() is None, reason="needs fuse-overlayfs")


def plan(mount: Mount, script: str, **options: object) -> plans.Plan:
    config = default_config(["sh", "-c", script], **options)  # type: ignore[arg-type]
    return plans.compile(config, id="root", rootfs=[mount], cgroup_parent=PARENT)


@pytest.mark.skipif(bool(loopdisk.missing("ext4")), reason=loopdisk.missing("ext4"))
@pytest.mark.parametrize(("word", "outcome"), [("rw", "written"), ("ro", "refused")])
def test_a_root_on_a_device(runner: Runner, tmp_path: Path, word: str, outcome: str) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    for name in ("dev", "proc", "sys"):
        (runner.root / name).mkdir(exist_ok=True)  # mount points: a read-only root cannot make them
    loopdisk.tool("mkfs.ext4", "-q", "-F", "-d", str(runner.root), str(image))
    with loopdisk.loop_device(image) as device:
        mount = Mount("ext4", device, "", ("nodelalloc", word))
        script = "touch /file 2>/dev/null && echo written || echo refused; grep -c ' / ext4 ' /proc/mounts"
        assert runner.start_plan(plan(mount, script)).wait().lines == [outcome, "1"]


@pytest.fixture
def served(tmp_path: Path, runner: Runner) -> Iterator[Mount]:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (f"lowerdir={runner.root}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work", "writeback=0")
    with adopted():
        yield Mount("fuse.fuse-overlayfs", "fuse-overlayfs", "", options)


@needs_fuse
def test_a_root_that_a_program_serves(runner: Runner, served: Mount, tmp_path: Path) -> None:
    script = "echo x > /file; rm /etc/passwd; cat /proc/[0-9]*/comm | grep -c fuse-overlay; ls /proc/self/fd | wc -l"
    outcome = runner.start_plan(plan(served, script)).wait()
    assert outcome.lines == ["0", "4"]  # no process of the container; 0, 1, 2 and that of ls
    assert (tmp_path / "upper" / "file").read_text() == "x\n"
    assert (tmp_path / "upper" / "etc" / "passwd").is_char_device()


@needs_fuse
def test_a_served_root_in_a_user_namespace(runner: Runner, served: Mount) -> None:
    outcome = runner.start_plan(plan(served, "cat /etc/passwd | wc -l", userns=(100_000, 100_000, 65_536))).wait()
    assert outcome.lines == ["2"]


@needs_fuse
def test_the_programs_words_are_the_error(runner: Runner, served: Mount) -> None:
    missing = served._replace(options=("lowerdir=/no/such/directory", *served.options[1:]))
    with pytest.raises(RuntimeFailed, match="cannot read lower dirs") as caught:
        runner.start_plan(plan(missing, "true"))
    assert caught.value.extra["stage"] == "rootfs"
