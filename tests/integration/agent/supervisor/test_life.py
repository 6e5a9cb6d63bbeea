from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from agent.protocol.errors import RemoteError
from agent.runtime.cgroup import hierarchies
from agent.runtime.defaults import default_config
from agent.supervisor.launch import ContainerCgroup
from agent.supervisor.processes import start_time
from tests.integration.agent.supervisor.home import DEADLINE, Home, gone, text_of, until

pytestmark = pytest.mark.root


async def test_an_exit_code_and_both_streams_are_recorded(home: Home) -> None:
    pid = await home.sh("c1", "echo out; echo err >&2; exit 5")
    record = await home.client.wait("c1")
    assert (record["state"], record["exit_code"], record["signal"], record["exit_known"]) == ("exited", 5, None, True)
    assert record["pid"] == 0
    assert 0 < record["created_at"] < record["started_at"] < record["finished_at"]
    assert home.output("c1") == b"out\n"
    assert home.output("c1", "stderr") == b"err\n"
    assert gone(pid, None)


async def test_a_created_container_waits(home: Home) -> None:
    await home.make("c1", "echo", "hello")
    record = await home.client.state("c1")
    assert record["state"] == "created"
    assert record["pid"] > 0
    assert home.output("c1") == b""
    await home.client.start("c1")
    assert (await home.client.wait("c1"))["exit_code"] == 0
    assert home.output("c1") == b"hello\n"


async def test_an_exited_container_runs_again(home: Home) -> None:
    for _round in range(2):
        if _round == 0:
            await home.make("c1", "echo", "again")
        await home.client.start("c1")
        assert (await home.client.wait("c1"))["exit_code"] == 0
    assert home.output("c1") == b"again\nagain\n"


async def test_stop_asks_and_the_container_obeys(home: Home) -> None:
    await home.sh("c1", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done")
    await until(lambda: home.output("c1"), "it is ready")
    record = await home.client.stop("c1", signal.SIGTERM, 30)
    assert record["exit_code"] == 3
    assert home.output("c1") == b"ready\nbye\n"


async def test_stop_escalates_after_the_grace(home: Home) -> None:
    pid = await home.sh("c1", "trap '' TERM; echo ready; while :; do sleep 0.02; done")
    await until(lambda: home.output("c1"), "it is ready")
    record = await home.client.stop("c1", signal.SIGTERM, 0.2)
    assert (record["exit_code"], record["signal"]) == (137, 9)
    assert gone(pid, None)


async def test_stop_of_a_paused_container_thaws_it(home: Home) -> None:
    await home.sh("c1", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done")
    await until(lambda: home.output("c1"), "it is ready")
    await home.client.pause("c1")
    assert (await home.client.stop("c1", signal.SIGTERM, 30))["exit_code"] == 4


async def test_kill_of_all_reaches_every_process(home: Home) -> None:
    await home.sh(
        "c1",
        "trap 'echo one' USR1; sh -c \"trap 'echo two; exit' USR1; echo ready; while :; do sleep 0.02; done\"; wait; sleep 60",
    )
    await until(lambda: home.output("c1"), "it is ready")
    await home.client.kill("c1", signal.SIGUSR1, all=True)
    await until(lambda: b"two" in home.output("c1"), "the inner shell got it")
    await home.client.kill("c1", signal.SIGKILL)
    assert (await home.client.wait("c1"))["signal"] == 9


async def test_pause_stops_the_clock_of_a_container(home: Home) -> None:
    await home.sh("c1", "while :; do echo x; sleep 0.01; done")
    await until(lambda: home.output("c1"), "it runs")
    await home.client.pause("c1")
    assert (await home.client.state("c1"))["state"] == "paused"
    pid = (await home.client.state("c1"))["pid"]
    used = text_of(f"/proc/{pid}/stat").split()[13:15]
    with pytest.raises(RemoteError) as refused:
        await home.client.pause("c1")
    assert refused.value.code == "container_paused"
    assert text_of(f"/proc/{pid}/stat").split()[13:15] == used
    await home.client.resume("c1")
    before = len(home.output("c1"))
    await until(lambda: len(home.output("c1")) > before, "it runs again")
    with pytest.raises(RemoteError) as refused:
        await home.client.resume("c1")
    assert refused.value.code == "container_not_paused"


@pytest.mark.parametrize(("args", "code"), [(["/nosuch"], 127), (["/etc"], 126)])
async def test_a_program_that_cannot_be_executed(home: Home, args: list[str], code: int) -> None:
    await home.make("c1", *args)
    with pytest.raises(RemoteError) as refused:
        await home.client.start("c1")
    assert refused.value.code == "exec_failed"
    record = await home.client.state("c1")
    assert (record["state"], record["exit_code"]) == ("exited", code)
    assert args[0] in record["error"]


async def test_an_invalid_configuration_leaves_nothing(home: Home) -> None:
    config = default_config(["true"])
    config["process"]["cwd"] = "relative"
    with pytest.raises(RemoteError) as refused:
        await home.make("c1", config=config)
    assert refused.value.status == 400
    assert home.directories() == []
    assert await home.client.list() == []


async def test_delete_refuses_what_is_active(home: Home) -> None:
    pid = await home.run("c1", "sleep", "60")
    started = start_time(pid)
    with pytest.raises(RemoteError) as refused:
        await home.client.delete("c1")
    assert refused.value.code == "container_active"
    await home.client.delete("c1", force=True)
    assert gone(pid, started)
    with pytest.raises(RemoteError) as refused:
        await home.client.state("c1")
    assert refused.value.code == "no_such_container"


async def test_update_changes_limits_now_and_for_later_runs(home: Home) -> None:
    await home.run("c1", "sleep", "60")
    await home.client.update("c1", {"pids": {"limit": 17}})
    assert (await home.client.stats("c1"))["pids"] == {"current": 1, "limit": 17}
    await home.client.stop("c1", signal.SIGKILL, 1)
    await home.client.start("c1")
    assert (await home.client.stats("c1"))["pids"]["limit"] == 17


async def test_top_shows_the_processes(home: Home) -> None:
    pid = await home.sh("c1", "sleep 61 & sleep 62 & wait")
    rows: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE):
        while not {"sleep 61", "sleep 62"} <= {row["command"] for row in rows}:
            rows = await home.client.top("c1")
    assert {row["ppid"] for row in rows if row["command"].startswith("sleep")} == {pid}


async def test_an_out_of_memory_kill_is_told(home: Home) -> None:
    config = default_config(["tail", "/dev/zero"])
    config["linux"]["resources"]["memory"] = {"limit": 24 << 20, "swap": 24 << 20}
    kinds: list[str] = []

    async def listen() -> None:
        async for event in home.client.events():
            kinds.append(event["kind"])

    listener = asyncio.create_task(listen())
    await until(lambda: "list" in kinds, "the listener has begun")
    await home.run("c1", config=config)
    record = await home.client.wait("c1")
    assert (record["exit_code"], record["signal"], record["oom_killed"]) == (137, 9, True)
    await until(lambda: "exit" in kinds, "the exit was told")
    assert "oom" in kinds
    listener.cancel()


async def test_fifty_containers_leave_nothing(home: Home) -> None:
    pid = await home.pid()
    fds = len(os.listdir(f"/proc/{pid}/fd"))
    ids = [f"c{number}" for number in range(50)]
    pids = {}
    for id_ in ids:
        pids[id_] = await home.run(id_, "sleep", "600")
    started = {id_: start_time(pids[id_]) for id_ in ids}
    assert len(home.cgroups()) >= 50
    await asyncio.gather(*(home.client.stop(id_, signal.SIGKILL, 5) for id_ in ids))
    for id_ in ids:
        assert gone(pids[id_], started[id_])
        await home.client.delete(id_)
    assert home.directories() == []
    await until(lambda: not home.cgroups(), "no cgroup is left")
    assert len(os.listdir(f"/proc/{pid}/fd")) == fds
    children = text_of(f"/proc/{pid}/task/{pid}/children").split()
    assert children == []


async def test_a_half_removed_cgroup_is_removed_in_the_end(home: Home) -> None:
    """The kernel lets go of the hierarchies one by one: what is gone first must not keep the rest."""
    await home.run("c1", "sleep", "600")
    point = hierarchies().mount_points()[0]  # one of v1's, or v2's alone
    held = f"{point}{home.cgroup_parent}/c1/held"
    os.mkdir(held)
    sleeper = await asyncio.create_subprocess_exec("sleep", "600")
    with open(held + "/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(sleeper.pid))
    cgroup = ContainerCgroup(home.cgroup_parent + "/c1")
    await home.client.stop("c1", signal.SIGKILL, 5)
    try:
        await until(lambda: len(home.cgroups()) <= 1, "the other hierarchies' are gone")
        cgroup.kill()
    finally:
        if sleeper.returncode is None:
            sleeper.kill()
        await sleeper.wait()
    await until(lambda: not home.cgroups(), "all are gone")
