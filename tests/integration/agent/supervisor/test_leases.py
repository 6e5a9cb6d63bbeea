"""Exclusive containers and the node's lease (CLOCK_BOOTTIME), with and without the agent."""

from __future__ import annotations

import os
import signal
import time

import pytest

from agent.protocol.errors import WharfError
from agent.supervisor.leases import LeaseFile
from agent.supervisor.processes import start_time
from agent.supervisor.record import boot_id
from tests.integration.agent.supervisor.home import Home, gone, until

pytestmark = pytest.mark.root


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_an_exclusive_container_starts_only_under_a_lease(home: Home) -> None:
    await home.make("c1", "sleep", "600", lease=10.0)
    with pytest.raises(WharfError) as refused:
        await home.client.start("c1")
    assert (refused.value.code, refused.value.retry) == ("lease_over", True)
    home.client.granted(boottime() - 30, 10.0)  # an old one
    with pytest.raises(WharfError, match="no lease"):
        await home.client.start("c1")
    home.client.granted(boottime(), 10.0)
    assert await home.client.start("c1")


async def test_it_is_killed_at_the_deadline_and_not_before(home: Home) -> None:
    home.client.granted(boottime(), 60.0)
    await home.sh("c1", "trap '' TERM INT; sleep 600 & wait", lease=0.5, restart={"name": "always"})
    await home.run("free", "sleep", "600")
    last = 0.0
    for _ in range(4):  # renewed: it lives on
        last = boottime()
        home.client.granted(last, 60.0)
        await until(lambda: boottime() > last + 0.3, "time passes")  # noqa: B023  # awaited here
        assert (await home.client.state("c1"))["state"] == "running"
    record = await home.client.wait("c1")
    assert boottime() >= last + 0.5
    assert (record["state"], record["exit_code"], record["restart_count"]) == ("exited", 137, 0)
    assert "lease" in record["error"]
    assert (await home.client.state("free"))["state"] == "running"


async def test_also_while_the_agent_is_dead(home: Home) -> None:
    home.client.granted(boottime(), 60.0)
    pid = await home.run("c1", "sleep", "600", lease=1.0)
    started = start_time(pid)
    await home.client.close()
    await until(lambda: gone(pid, started), "it was killed")
    await home.open()
    record = await home.client.state("c1")
    assert (record["exit_code"], record["signal"]) == (137, 9)


async def test_a_supervisor_that_was_dead_at_the_deadline_kills_first(home: Home) -> None:
    home.client.granted(boottime(), 60.0)
    pid = await home.run("c1", "sleep", "600", lease=0.5)
    started, deadline = start_time(pid), boottime() + 0.5
    supervisor = home.supervisor
    await home.client.close()  # which would start another at once
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: gone(supervisor, None) and boottime() > deadline, "the deadline passes")
    assert not gone(pid, started)
    await home.open()
    await until(lambda: gone(pid, started), "it was killed")
    assert "lease" in (await home.client.wait("c1"))["error"]


async def test_an_upgrade_keeps_the_deadline(home: Home) -> None:
    home.client.granted(boottime(), 60.0)
    await home.run("c1", "sleep", "600", lease=1.0)
    await home.client.upgrade()
    assert (await home.client.wait("c1"))["exit_code"] == 137


def test_what_another_boot_left_counts_for_nothing(tmp_path: object) -> None:
    directory = str(tmp_path)
    LeaseFile(directory, "0" * 32).grant(boottime(), 60.0)
    assert LeaseFile(directory, boot_id()).read() == (0, 0)
    mine = LeaseFile(directory, boot_id())
    first = boottime()
    mine.grant(first, 10.0)
    mine.grant(first - 5, 10.0)  # an acknowledgement that was overtaken
    assert mine.read() == (int(first * 1e9), 10_000_000_000)
    mine.grant(boottime() + 100, 10.0)  # cannot be: nothing was sent in the future
    assert mine.read() == (0, 0)
