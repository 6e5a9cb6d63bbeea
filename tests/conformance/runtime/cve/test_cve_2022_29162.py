"""CVE-2022-29162 and CVE-2022-24769: processes start with inheritable capabilities, which a file of the image turns into
permitted ones for whoever runs it, past a bounding set dropped too late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps
from agent.runtime.defaults import CAPABILITIES
from tests.conformance.runtime.conftest import Outcome, Runner

TEN = "00000000000405fb"  # CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT
NONE = "0" * 16
GOLDEN = {
    0: {"Inh": NONE, "Prm": TEN, "Eff": TEN, "Bnd": TEN, "Amb": NONE},
    1000: {"Inh": NONE, "Prm": NONE, "Eff": NONE, "Bnd": TEN, "Amb": NONE},
}


def sets(outcome: Outcome) -> dict[str, str]:
    return {line[3:6]: line.split()[1] for line in outcome.lines if line.startswith("Cap")}


def both(runner: Runner, uid: int, change: Any = None) -> list[dict[str, str]]:
    """Of init and of an exec."""
    running = runner.start("sleep", "1000", uid=uid, gid=uid, change=change)
    init = runner.run("cat", "/proc/self/status", uid=uid, gid=uid, change=change)
    return [sets(init), sets(running.exec("cat", "/proc/self/status"))]


def test_the_golden_list_is_what_the_document_says() -> None:
    assert int(TEN, 16) == caps.mask(CAPABILITIES)
    words = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT"
    assert set(CAPABILITIES) == {f"CAP_{word}" for word in words.split()}


@pytest.mark.parametrize("uid", [0, 1000])
def test_init_and_exec_have_exactly_the_golden_list(runner: Runner, uid: int) -> None:
    assert both(runner, uid) == [GOLDEN[uid]] * 2


def inheritable(config: dict[str, Any]) -> None:
    """What Docker and runc gave until 2022."""
    config["process"]["capabilities"]["inheritable"] = list(CAPABILITIES)


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_probe_sees_inheritable_ones(runner: Runner, uid: int) -> None:
    for seen in both(runner, uid, inheritable):
        assert (seen != GOLDEN[uid]) is (uid == 0)  # a plain user's permitted set bounds them


def test_the_probe_sees_a_bounding_set_that_was_not_dropped(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.sys import cred

    monkeypatch.setattr(cred, "drop_bounding", lambda *_: None)
    for seen in both(runner, 0):
        assert seen["Bnd"] != TEN
        assert seen["Prm"] == TEN


def test_a_false_proc_does_not_shorten_the_bounding_set(runner: Runner, rootfs: Path) -> None:
    """The kernel's highest capability is a file of procfs, and the container's procfs may be the image's own files."""
    (rootfs / "proc/sys/kernel").mkdir(parents=True)
    (rootfs / "proc/sys/kernel/cap_last_cap").write_text("-1\n")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/proc"]

    running = runner.start("sleep", "1000", root=rootfs, change=change)
    status = Path(f"/proc/{running.init.pid}/status").read_text()
    assert f"CapBnd:\t{TEN}" in status
