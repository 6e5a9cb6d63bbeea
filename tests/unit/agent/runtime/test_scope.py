"""systemd's scopes: names, properties, and what is asked of systemd, which a peer of ours plays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import Unavailable
from agent.runtime.cgroup import properties, scope
from agent.runtime.cgroup.scope import Scope
from agent.runtime.errors import CgroupRefused, InvalidConfig
from tests.unit.agent.runtime.dbus_peer import Peer, Refused


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    path = tmp_path / "private"
    monkeypatch.setattr(scope, "SOCKETS", ((str(tmp_path / "absent"), False), (str(path), False)))
    made = Peer(path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("text", "unit", "path"),
    [
        ("a-b.slice:wharf:c1", "wharf-c1.scope", "/a.slice/a-b.slice/wharf-c1.scope"),
        (":p:n", "p-n.scope", "/system.slice/p-n.scope"),
        ("-.slice::n", "n.scope", "/n.scope"),
        ("a.slice::a-pods.slice", "a-pods.slice", "/a.slice/a-pods.slice"),
    ],
)
def test_names_and_places(text: str, unit: str, path: str) -> None:
    found = Scope(text)
    assert (found.unit, found.path) == (unit, path)


@pytest.mark.parametrize(
    "text", ["a.slice:b", "a:b:c", "a-.slice:p:n", "a--b.slice:p:n", "/a.slice:p:n", "a.slice:p:", "a.slice:p:n/x"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidConfig):
        Scope(text)


def test_limits_as_properties_of_version_2() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 150, "reservation": 50},
        "cpu": {"quota": 12345, "period": 100000, "shares": 1024, "cpus": "0-2,9"},
        "pids": {"limit": 0},
        "unified": {"memory.high": "max", "cpuset.mems": "0", "io.max": "8:0 rbps=1"},
    }
    found = dict(properties.limits(resources, v1=False))
    assert found == {
        "MemoryMax": ("t", 100), "MemorySwapMax": ("t", 50), "MemoryLow": ("t", 50), "CPUWeight": ("t", 100),
        "CPUQuotaPeriodUSec": ("t", 100000), "CPUQuotaPerSecUSec": ("t", 130000),  # 123450, rounded up to 10 ms a second
        "AllowedCPUs": ("ay", b"\x07\x02"), "AllowedMemoryNodes": ("ay", b"\x01"), "TasksMax": ("t", 1),
        "MemoryHigh": ("t", 2**64 - 1),
    }  # fmt: skip


def test_limits_as_properties_of_version_1() -> None:
    resources = {"memory": {"limit": -1, "reservation": 9}, "cpu": {"quota": -1, "shares": 512}, "blockIO": {"weight": 500}}
    assert dict(properties.limits(resources, v1=True)) == {
        "MemoryLimit": ("t", 2**64 - 1), "CPUShares": ("t", 512), "CPUQuotaPerSecUSec": ("t", 2**64 - 1),
        "BlockIOWeight": ("t", 500),
    }  # fmt: skip


def test_a_scope_begins_with_a_process_and_keeps_it_until_it_is_released(systemd: Peer) -> None:
    made = Scope("a.slice:p:n")
    made.start({"pids": {"limit": 20}}, v1=False)
    unit, mode, wanted, _ = systemd.values("StartTransientUnit")
    given = dict(wanted)
    assert (unit, mode) == ("p-n.scope", "replace")
    assert given["Slice"] == ("s", "a.slice")
    assert given["Delegate"] == ("b", True)
    assert given["DefaultDependencies"] == ("b", False)
    assert {given[name] for name in ("MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting")} == {("b", True)}
    assert given["TasksMax"] == ("t", 20)
    (pid,) = given["PIDs"][1]
    assert os.path.exists(f"/proc/{pid}")
    made.release()
    assert not os.path.exists(f"/proc/{pid}")
    made.release()  # nothing more to do


def test_a_unit_that_failed_before_is_reset_once(systemd: Peer) -> None:
    answers = [Refused("org.freedesktop.systemd1.UnitExists", "it exists"), None]

    def start(values: list[Any]) -> tuple[str, list[Any]]:
        refused = answers.pop(0)
        if refused:
            raise refused
        return "o", ["/org/freedesktop/systemd1/job/7"]

    systemd.answers["StartTransientUnit"] = start
    made = Scope("a.slice:p:n")
    made.start({}, v1=False)
    made.release()
    assert systemd.members() == ["Subscribe", "StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_a_unit_that_runs_is_not_taken(systemd: Peer) -> None:
    def start(values: list[Any]) -> tuple[str, list[Any]]:
        raise Refused("org.freedesktop.systemd1.UnitExists", "Unit p-n.scope was already loaded")

    systemd.answers["StartTransientUnit"] = start
    with pytest.raises(CgroupRefused, match="already loaded"):
        Scope("a.slice:p:n").start({}, v1=False)
    assert systemd.members().count("StartTransientUnit") == 2
    _no_children()


def test_a_job_that_fails_says_how(systemd: Peer) -> None:
    systemd.job_result = "failed"
    with pytest.raises(CgroupRefused, match=r"p-n\.scope.*failed"):
        Scope("a.slice:p:n").start({}, v1=False)
    assert systemd.members()[-1] == "ResetFailedUnit"
    _no_children()


def test_a_job_that_never_ends_is_given_up(systemd: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "JOB_SECONDS", 0.05)
    systemd.job_result = None
    with pytest.raises(Unavailable, match="did not start"):
        Scope("a.slice:p:n").start({}, v1=False)
    _no_children()


def test_update_and_stop(systemd: Peer) -> None:
    made = Scope("a.slice:p:n")
    made.update({"memory": {"limit": 7}}, v1=False)
    made.update({"devices": []}, v1=False)  # nothing that systemd knows
    made.stop()
    assert systemd.calls == [
        ("SetUnitProperties", ["p-n.scope", True, [("MemoryMax", ("t", 7))]]),
        ("StopUnit", ["p-n.scope", "replace"]),
        ("ResetFailedUnit", ["p-n.scope"]),
    ]


def test_without_systemd_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "SOCKETS", ((str(tmp_path / "absent"), False),))
    with pytest.raises(CgroupRefused, match="leave out --systemd-cgroup"):
        Scope("a.slice:p:n").start({}, v1=False)
    _no_children()


def _no_children() -> None:
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


def test_an_ordinary_user_asks_his_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "privileged", lambda: False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(CgroupRefused, match="no systemd of this user"):
        Scope(":p:n")
    (tmp_path / "systemd").mkdir()
    peer = Peer(tmp_path / "systemd/private")
    peer.answers["Get"] = lambda values: ("v", [("s", "/user.slice/user@7.service" if values[1] == "ControlGroup" else "")])
    try:
        found = Scope(":p:n")
    finally:
        peer.close()
    assert found.path == "/user.slice/user@7.service/user.slice/p-n.scope"
