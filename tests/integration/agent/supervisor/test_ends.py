"""Many real containers that end at once, with and without shims, over a kill of the supervisor, on a full disk."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.defaults import default_config
from agent.supervisor.processes import start_time
from tests.integration.agent.supervisor.home import Home, exit_told, gone, run_program, until
from tests.integration.agent.supervisor.test_streams import fill

pytestmark = pytest.mark.root

ISOLATIONS = ("shared", "shim")


def hungry() -> dict[str, Any]:
    """Needs more memory than it may have once it is told to go on."""
    config = default_config(["sh", "-c", "until test -e /tmp/go; do usleep 1000; done; exec tail /dev/zero"])
    config["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    return config


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_all_are_told_once_with_how_they_ended(home: Home, isolation: str) -> None:
    flag = home.rootfs_path / "tmp" / "go"
    seen: list[dict[str, Any]] = []

    async def listen() -> None:
        async for event in home.client.events():
            seen.append(event)

    listener = asyncio.create_task(listen())
    await until(lambda: seen, "the first list")
    expected: dict[str, tuple[int, int | None, bool]] = {}
    pids = []
    for number in range(30):
        id_, kind = f"c{number}", number % 3
        expected[id_] = [(number, None, False), (137, 9, False), (143, 15, False)][kind]
        wait = f"until test -e /tmp/go; do usleep 1000; done; exit {number}"
        trap = "until test -e /tmp/go; do usleep 1000; done; trap - TERM; kill -TERM $$"
        config = default_config(["sh", "-c", (wait, "exec sleep 600", trap)[kind]])
        if kind == 2:  # the first process of a pid namespace cannot kill itself
            config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]
        pids.append(await home.run(id_, config=config, isolation=isolation))
    expected["hungry"] = (137, 9, True)
    await home.run("hungry", config=hungry(), isolation=isolation)
    flag.touch()
    for number in range(1, 30, 3):
        os.kill(pids[number], signal.SIGKILL)
    records = await asyncio.gather(*(home.client.wait(id_) for id_ in expected))
    flag.unlink()
    assert {r["id"]: (r["exit_code"], r["signal"], r["oom_killed"]) for r in records} == expected
    await until(lambda: len([event for event in seen if event["kind"] == "exit"]) == len(expected), "all are told")
    ends = [event["container"] for event in seen if event["kind"] == "exit"]
    assert {r["id"]: (r["exit_code"], r["signal"], r["oom_killed"]) for r in ends} == expected
    assert {id_: home.noted(id_).get("exit_code", 0) for id_ in expected} == {id_: end[0] for id_, end in expected.items()}
    await until(lambda: not home.cgroups(), "no cgroup is left")
    listener.cancel()


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_ends_while_the_supervisor_dies_are_all_found(home: Home, isolation: str) -> None:
    pids = {f"c{number}": await home.run(f"c{number}", "sleep", "600", isolation=isolation) for number in range(20)}
    started = {id_: start_time(pid) for id_, pid in pids.items()}
    os.kill(home.supervisor, signal.SIGSTOP)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(gone(pid, started[id_]) for id_, pid in pids.items()), "all have ended")
    await home.crash()
    for id_ in pids:
        record = await home.client.wait(id_)
        assert exit_told(record, 137), record
        assert isolation == "shared" or record["exit_known"]


async def test_ends_are_on_record_on_a_full_disk(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "state").mkdir()
    assert run_program("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "state")).returncode == 0
    home = Home(tmp_path, rootfs)
    try:
        await home.open()
        for number in range(5):
            await home.run(f"c{number}", "sleep", "600")
        fill(tmp_path / "state" / "filler")
        await asyncio.gather(*(home.client.stop(f"c{number}", signal.SIGKILL, None) for number in range(5)))
        await home.crash()
        for number in range(5):
            record = await home.client.state(f"c{number}")
            assert (record["state"], record["exit_code"], record["exit_known"]) == ("exited", 137, True)
        (tmp_path / "state" / "filler").unlink()
        await home.close()
    finally:
        run_program("umount", "--lazy", str(tmp_path / "state"))


async def test_a_deleted_container_is_gone_in_one_pass_and_its_name_free_at_once(home: Home) -> None:
    """The sweep of an end and the one of a deletion may both be due: neither touches a new container of that name."""
    for _round in range(5):
        await home.run("c1", "sleep", "600")
        await home.client.stop("c1", signal.SIGKILL, None)
        await home.client.delete("c1")
        pid = await home.run("c1", "sleep", "600")
        await home.client.hello()
        assert (await home.client.state("c1"))["pid"] == pid
        assert home.directories() == ["c1"]
        await home.client.delete("c1", force=True)
        assert home.directories() == []
