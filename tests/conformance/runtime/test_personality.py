"""config-linux.md, personality: the execution domain of everything in the container (personality(2))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Runner


def domain(word: str) -> Any:
    return lambda config: config["linux"].update(personality={"domain": word})


@pytest.mark.parametrize(("word", "number"), [("LINUX", 0), ("LINUX32", 8)])
def test_of_the_program_and_of_an_exec(runner: Runner, word: str, number: int) -> None:
    running = runner.start("sleep", "1000", change=domain(word))
    assert int(Path(f"/proc/{running.init.pid}/personality").read_text(), 16) == number
    assert int(running.exec("cat", "/proc/self/personality").output, 16) == number


def test_the_machine_has_its_32_bit_name(runner: Runner, rootfs: Path) -> None:
    (rootfs / "bin/uname").symlink_to("busybox")
    if os.uname().machine != "x86_64":
        pytest.skip("the name of the 32 bit machine is known for x86_64 here")
    assert runner.run("uname", "-m", root=rootfs, change=domain("LINUX32")).output == "i686\n"
    assert runner.run("uname", "-m", root=rootfs).output == "x86_64\n"
