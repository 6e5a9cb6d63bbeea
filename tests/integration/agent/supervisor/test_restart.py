from __future__ import annotations

import signal
from typing import Any

import pytest

from agent.protocol.errors import RemoteError
from tests.integration.agent.supervisor.home import Home, until

pytestmark = pytest.mark.root


async def counted(home: Home, id_: str, least: int) -> dict[str, Any]:
    """The record, once it has been restarted that often."""
    async for event in home.client.events():
        record = event.get("container")
        if record is not None and event["id"] == id_ and record["restart_count"] >= least:
            return dict(record)
    raise AssertionError("events ended")


async def test_always_restarts_until_somebody_stops_it(home: Home) -> None:
    await home.sh("c1", "echo run; exit 0", restart={"name": "always"})
    record = await counted(home, "c1", 3)
    assert record["restart_count"] >= 3
    record = await home.client.stop("c1", signal.SIGTERM, 5)
    assert record["state"] == "exited"
    runs = record["restart_count"] + 1
    assert home.output("c1") == b"run\n" * runs
    await home.client.start("c1")
    assert (await home.client.state("c1"))["restart_count"] in (0, 1)  # by hand: counted anew


async def test_on_failure_gives_up(home: Home) -> None:
    await home.sh("c1", "echo run; exit 4", restart={"name": "on-failure", "max": 2})
    record = await home.client.wait("c1")
    assert (record["state"], record["exit_code"], record["restart_count"]) == ("exited", 4, 2)
    assert home.output("c1") == b"run\n" * 3
    await home.sh("c2", "exit 0", restart={"name": "on-failure"})
    assert (await home.client.wait("c2"))["restart_count"] == 0


async def test_kill_is_the_end_also_of_always(home: Home) -> None:
    await home.run("c1", "sleep", "600", restart={"name": "always"})
    await home.client.kill("c1", signal.SIGKILL)
    record = await home.client.wait("c1")
    assert (record["state"], record["restart_count"]) == ("exited", 0)


async def test_count_and_backoff_survive_upgrades_and_kills(home: Home) -> None:
    await home.sh("c1", "echo run; exit 1", restart={"name": "always"})
    before = (await counted(home, "c1", 1))["restart_count"]
    for round_ in range(3):
        if round_ == 1:
            await home.client.upgrade()
        else:
            await home.crash()
        after = (await counted(home, "c1", before + 1))["restart_count"]
        assert after > before
        before = after
    record = await home.client.stop("c1", signal.SIGTERM, 5)
    assert home.output("c1").count(b"run\n") == record["restart_count"] + 1


async def test_a_pending_restart_goes_on_after_a_kill(home: Home) -> None:
    await home.sh("c1", "exit 1", restart={"name": "on-failure", "max": 5})
    await counted(home, "c1", 2)
    await home.crash()
    record = await home.client.wait("c1")
    assert (record["restart_count"], record["exit_code"]) == (5, 1)


async def test_a_waiting_container_can_be_stopped_and_deleted(home: Home) -> None:
    await home.sh("c1", "exit 1", restart={"name": "always"})
    await counted(home, "c1", 4)  # by now it mostly waits
    record = await home.client.stop("c1", signal.SIGTERM, 5)
    assert record["state"] == "exited"
    await home.client.delete("c1")
    assert await home.client.list() == []


async def test_a_program_that_is_gone_is_tried_again(home: Home) -> None:
    program = home.rootfs_path / "tmp" / "program"
    program.write_text("#!/bin/sh\nsleep 0.2\nexit 1\n")
    program.chmod(0o755)
    await home.run("c1", "/tmp/program", restart={"name": "on-failure", "max": 3})
    program.unlink()
    record = await home.client.wait("c1")
    assert (record["exit_code"], record["restart_count"]) == (127, 3)
    assert "/tmp/program" in record["error"]


async def test_the_policy_can_be_changed(home: Home) -> None:
    await home.sh("c1", "sleep 0.2; exit 1", restart={"name": "always"})
    await home.client.update("c1", None, restart={"name": "no"})
    assert (await home.client.wait("c1"))["restart_count"] == 0
    with pytest.raises(RemoteError) as refused:
        await home.client.update("c1", None, restart={"name": "sometimes"})
    assert refused.value.code == "invalid_restart_policy"


async def test_health_is_checked(home: Home) -> None:
    second = 1_000_000_000
    check = {
        "Test": ["CMD-SHELL", "echo probed; test -e /tmp/healthy"],
        "Interval": second // 10,
        "Retries": 2,
        "Timeout": second,
    }
    (home.rootfs_path / "tmp/healthy").touch()
    await home.run("c1", "sleep", "600", health=check)
    assert (await home.client.state("c1"))["health"]["status"] == "starting"

    async def status(wanted: str) -> dict[str, Any]:
        async for event in home.client.events():
            health = (event.get("container") or {}).get("health")
            if health and health["status"] == wanted:
                return dict(health)
        raise AssertionError("events ended")

    health = await status("healthy")
    assert (health["log"][-1]["exit_code"], health["log"][-1]["output"]) == (0, "probed\n")
    (home.rootfs_path / "tmp/healthy").unlink()
    health = await status("unhealthy")
    assert health["failing"] == 2
    await home.crash()
    assert (await home.client.state("c1"))["health"]["status"] == "unhealthy"
    (home.rootfs_path / "tmp/healthy").touch()
    health = await status("healthy")
    assert health["failing"] == 0
    assert len(health["log"]) <= 5
    (home.rootfs_path / "tmp/healthy").unlink()


async def test_a_probe_that_hangs_is_killed(home: Home) -> None:
    second = 1_000_000_000
    check = {"Test": ["CMD", "sleep", "61"], "Interval": second // 20, "Retries": 1, "Timeout": second // 5}
    await home.run("c1", "sleep", "600", health=check)
    async for event in home.client.events():
        health = (event.get("container") or {}).get("health")
        if health and health["status"] == "unhealthy":
            break
    assert health["log"][0]["exit_code"] == -1
    assert "timeout" in health["log"][0]["output"]
    await home.client.stop("c1", signal.SIGKILL, 5)
    await until(lambda: not home.cgroups(), "no probe is left")
