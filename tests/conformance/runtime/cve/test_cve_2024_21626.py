"""CVE-2024-21626: a descriptor of the host that is open while the working directory is entered, or left open at exec."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.runtime import child, launch
from agent.runtime.errors import RuntimeFailed
from agent.sys import process
from tests.conformance.runtime.conftest import Runner

NUMBERS = range(3, 65)


@pytest.fixture
def leaked(tmp_path: Path) -> int:
    """A directory of the host with a secret, open and inheritable as the attacker would wish."""
    (tmp_path / "secret").write_text("of the host\n")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    high = os.dup2(fd, 40)
    os.close(fd)
    yield high
    os.close(high)


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.Wires, "close_others", lambda *_: None)
    monkeypatch.setattr(process, "close_on_exec_from", lambda _: None)


def enter_by_path(path: bytes, create: bool) -> None:
    os.chdir(path)


@pytest.mark.parametrize("tail", ["", "/../..", "/."])
def test_no_number_leads_out_on_run(runner: Runner, leaked: int, tail: str) -> None:
    for number in (leaked, 3, 4, 9) if tail else NUMBERS:
        with pytest.raises(RuntimeFailed, match="cwd"):
            runner.run("true", cwd=f"/proc/self/fd/{number}{tail}")


def test_no_number_leads_out_on_exec(runner: Runner, leaked: int) -> None:
    running = runner.start("sh", "-c", "ln -s /proc/self/fd/40 /dev/shm/trap; echo made; sleep 1000")
    running.read_line()
    for path in ["/dev/shm/trap", *(f"/proc/self/fd/{number}" for number in NUMBERS)]:
        with pytest.raises(RuntimeFailed, match="cwd"):
            running.exec("true", cwd=path)


def test_a_descriptor_alone_does_not_lead_out(runner: Runner, leaked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with everything left open, the directory is not entered through it."""
    careless(monkeypatch)
    with pytest.raises(RuntimeFailed, match="cwd"):
        runner.run("cat", "secret", cwd=f"/proc/self/fd/{leaked}")


def test_a_path_alone_does_not_lead_out(runner: Runner, leaked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even entered by path: nothing is open that it could name."""
    monkeypatch.setattr(launch, "enter_directory", enter_by_path)
    for number in NUMBERS:
        try:
            assert "of the host" not in runner.run("cat", "secret", cwd=f"/proc/self/fd/{number}").output
        except RuntimeFailed as error:
            assert error.extra["errno"] in (2, 20), error  # noqa: PT017  # both ways of failing are good


def test_with_both_guards_gone_the_probe_reads_the_host(runner: Runner, leaked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    careless(monkeypatch)
    monkeypatch.setattr(launch, "enter_directory", enter_by_path)
    assert runner.run("cat", "secret", cwd=f"/proc/self/fd/{leaked}").output == "of the host\n"


@pytest.mark.parametrize("naive", [False, True])
def test_descriptors_at_exec(runner: Runner, leaked: int, monkeypatch: pytest.MonkeyPatch, naive: bool) -> None:
    if naive:
        careless(monkeypatch)
        os.set_inheritable(leaked, True)
    expected = ["0", "1", "2", "3", str(leaked)] if naive else ["0", "1", "2", "3"]  # ls has the directory as 3
    running = runner.start("sleep", "1000")
    for outcome in (running.exec("ls", "/proc/self/fd"), runner.run("ls", "/proc/self/fd")):
        seen = sorted(outcome.output.split(), key=int)
        assert set(seen) >= set(expected) if naive else seen == expected
