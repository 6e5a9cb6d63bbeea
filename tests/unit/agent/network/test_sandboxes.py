"""Records of the run directory: they outlive the agent, not the kernel, and wait for no disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.network.ipam import AddressPool
from agent.network.records import Sandbox
from agent.network.sandboxes import Sandboxes
from agent.protocol.spec import NetworkMode


def test_a_sandbox_is_there_after_a_restart_of_the_agent_and_gone_once_discarded(tmp_path: Path) -> None:
    Sandboxes(str(tmp_path)).put(Sandbox("c1", NetworkMode.NONE, "web"))
    again = Sandboxes(str(tmp_path))
    assert dict(again) == {"c1": Sandbox("c1", NetworkMode.NONE, "web")}
    again.discard("c1")
    assert not Sandboxes(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_record_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes = Sandboxes(str(tmp_path))
    sandboxes.put(Sandbox("c1", NetworkMode.NONE, "old"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            sandboxes.put(Sandbox("c1", NetworkMode.NONE, "new"))
    assert Sandboxes(str(tmp_path))["c1"].name == "old"
    assert os.listdir(tmp_path) == ["c1.json"]


def test_what_a_reboot_makes_void_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: int) -> None:
        raise AssertionError("a sync for a record that a reboot makes void")

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(os, "fdatasync", slow)
    sandboxes = Sandboxes(str(tmp_path / "sandboxes"))
    sandboxes.put(Sandbox("c1", NetworkMode.NONE))
    sandboxes.discard("c1")
    addresses = AddressPool("10.0.0.0/29", "10.0.0.1", str(tmp_path / "turn.json"))
    addresses.free(addresses.allocate("c1"), "c1")
    addresses.forget()
