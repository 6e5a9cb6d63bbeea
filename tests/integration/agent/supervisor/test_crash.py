"""kill -9 of the supervisor, and of its client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import WharfError
from agent.runtime.defaults import default_config
from agent.supervisor.client import Supervisor
from agent.supervisor.processes import start_time
from tests.integration.agent.supervisor.home import Home, exit_told, gone, read_all, text_of, until

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[4]
TICK = "trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); usleep 500; done"


async def test_containers_survive_ten_kills_and_are_adopted(home: Home) -> None:
    pid = await home.sh("c1", TICK)
    started = start_time(pid)
    for _round in range(10):
        before = len(home.lines("c1"))
        await until(lambda: len(home.lines("c1")) > before, "the log grows")  # noqa: B023  # awaited here
        await home.crash()
        record = await home.client.state("c1")
        assert (record["state"], record["pid"], record["start_time"]) == ("running", pid, started)
    assert start_time(pid) == started
    record = await home.client.stop("c1", signal.SIGTERM, 20)
    # the new supervisor is not its parent: the kernel tells the exit all the same
    assert exit_told(record, 0)
    numbers = [int(line.split()[1]) for line in home.output("c1").splitlines()]
    assert numbers == sorted(set(numbers))  # nothing twice
    assert len(numbers) == numbers[-1] + 1  # nothing missing
    assert len(numbers) > 100


async def test_output_written_while_no_supervisor_lives_is_not_lost(home: Home) -> None:
    await home.sh("c1", "read x; seq 1 5000; exit 3", open_stdin=True)
    attachment = await home.client.attach("c1")
    os.kill(home.supervisor, signal.SIGSTOP)
    os.write(attachment.stdin_fd or -1, b"go\n")
    # what was typed was with the killed one: type again to the next
    await home.crash()
    again = await home.client.attach("c1")
    os.write(again.stdin_fd or -1, b"go\n")
    record = await home.client.wait("c1")
    assert exit_told(record, 3)
    assert home.output("c1").split() == [b"%d" % number for number in range(1, 5001)]
    for fd in (attachment.stdin_fd, attachment.stdout_fd, attachment.stderr_fd, again.stdin_fd, again.stdout_fd, again.stderr_fd):
        os.close(fd or -1)


async def test_an_exit_and_last_words_while_away_are_known_by_the_store(home: Home) -> None:
    """The agent holds duplicates of the pidfd and the FIFOs."""
    flag = home.rootfs_path / "tmp" / "go-store"
    pid = await home.sh("c1", "until test -e /tmp/go-store; do usleep 1000; done; echo last words; exit 7")
    started = start_time(pid)
    os.kill(home.supervisor, signal.SIGSTOP)
    flag.touch()
    await until(lambda: gone(pid, started), "it has ended")
    await home.crash()
    record = await home.client.wait("c1")
    assert exit_told(record, 7)
    assert home.output("c1") == b"last words\n"
    flag.unlink()


async def test_an_exit_that_nobody_saw_is_not_invented(home: Home, tmp_path: Path) -> None:
    flag = home.rootfs_path / "tmp" / "go-unseen"
    pid = await home.sh("c1", "until test -e /tmp/go-unseen; do usleep 1000; done; exit 7")
    started = start_time(pid)
    supervisor = await home.pid()
    await home.client.close()  # no store
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: gone(supervisor, None), "the supervisor is dead")
    flag.touch()
    await until(lambda: gone(pid, started), "it has ended")
    reaped = start_time(pid) is None
    await home.open()
    record = await home.client.wait("c1")
    flag.unlink()
    assert record["state"] == "exited"
    if reaped:  # an init that reaps: the status is gone with the zombie
        assert (record["exit_code"], record["exit_known"]) == (None, False)
    else:  # nobody reaps here: the zombie still says it
        assert exit_told(record, 7)


async def test_a_terminal_is_given_back(home: Home) -> None:
    await home.make("c1", config=default_config(["sh"], terminal=True), open_stdin=True)
    await home.client.start("c1")
    pid = (await home.client.state("c1"))["pid"]
    await home.crash()
    attachment = await home.client.attach("c1")
    await home.client.resize("c1", 21, 61)
    os.write(attachment.stdin_fd or -1, b"stty size; exit 4\n")
    assert (await home.client.state("c1"))["pid"] in (pid, 0)
    assert (await home.client.wait("c1"))["exit_code"] == 4
    assert b"21 61" in read_all(attachment.stdout_fd)
    os.close(attachment.stdin_fd or -1)


async def test_a_created_container_can_still_be_started(home: Home) -> None:
    await home.make("c1", "echo", "hello")
    waiting = (await home.client.state("c1"))["pid"]
    started = start_time(waiting)
    await home.crash()
    assert (await home.client.state("c1"))["state"] == "created"
    await until(lambda: gone(waiting, started), "the process that waited has ended")
    await home.client.start("c1")
    assert (await home.client.wait("c1"))["exit_code"] == 0
    assert home.output("c1") == b"hello\n"


async def test_a_grace_under_way_ends_all_the_same(home: Home) -> None:
    await home.sh("c1", "trap '' TERM; echo ready; while :; do sleep 0.02; done")
    await until(lambda: home.output("c1"), "it is ready")
    stop = asyncio.create_task(home.client.stop("c1", signal.SIGTERM, 1.0))
    await until(lambda: home.noted("c1").get("kill_at"), "the stop is on record")
    await home.crash()
    assert (await stop)["exit_code"] == 137


async def test_execs_are_adopted(home: Home) -> None:
    await home.run("c1", "sleep", "600")
    session = await home.client.exec(
        "c1", {**default_config(["sh", "-c", "trap 'exit 6' TERM; while :; do usleep 1000; done"])["process"]}
    )
    await home.crash()
    state = await home.client.exec_state(session.exec_id)
    assert (state["running"], state["pid"]) == (True, session.pid)

    def handler_is_set() -> bool:
        caught = text_of(f"/proc/{session.pid}/status").partition("SigCgt:")[2].split()[0]
        return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))

    await until(handler_is_set, "the trap is set")
    await home.client.exec_kill(session.exec_id, signal.SIGTERM)
    assert await home.client.exec_wait(session.exec_id) == 6
    os.close(session.stdout_fd or -1)
    os.close(session.stderr_fd or -1)


async def test_events_begin_anew_with_the_list(home: Home) -> None:
    seen: list[dict[str, Any]] = []

    async def listen() -> None:
        async for event in home.client.events():
            seen.append(event)

    listener = asyncio.create_task(listen())
    await until(lambda: seen, "the first list")
    await home.run("c1", "sleep", "600")
    await home.crash()
    await until(lambda: [event["kind"] for event in seen].count("list") >= 2, "the second list")
    last = [event for event in seen if event["kind"] == "list"][-1]
    assert [container["id"] for container in last["containers"]] == ["c1"]
    listener.cancel()


async def test_a_question_that_may_not_be_repeated_says_so(home: Home) -> None:
    await home.make("c1", "true")
    pid = await home.pid()
    os.kill(pid, signal.SIGSTOP)
    start = asyncio.create_task(home.client.start("c1"))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WharfError) as lost:
        await start
    assert (lost.value.code, lost.value.retry) == ("supervisor_lost", True)
    await home.client.start("c1")
    await home.client.wait("c1")


CLIENT = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from agent.supervisor.client import Supervisor
from agent.runtime.defaults import default_config
from agent.sys.mount import Mount

async def main():
    client = await Supervisor.ensure({rundir!r}, {statedir!r}, {cgroup!r})
    await client.create("c1", default_config(["sh", "-c", {script!r}]), [Mount("bind", {rootfs!r}, "", ("rbind",))])
    attachment = await client.attach("c1")  # never read
    await client.start("c1")
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_kill_of_the_client_and_its_group_loses_no_byte(tmp_path: Path, rootfs: Path) -> None:
    """The client itself starts the supervisor: neither its process group nor its session takes the supervisor along."""
    home = Home(tmp_path, rootfs)
    script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; exit 3"
    text = CLIENT.format(
        repository=str(REPOSITORY),
        rundir=home.rundir,
        statedir=home.statedir,
        cgroup=home.cgroup_parent,
        rootfs=str(rootfs),
        script=script,
    )
    client = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", text], stdout=subprocess.PIPE, start_new_session=True
    )
    assert client.stdout is not None
    assert await asyncio.to_thread(client.stdout.readline) == b"started\n"
    await until(lambda: home.lines("c1"), "the container writes")
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    client.stdout.close()
    second = await Supervisor.connect(home.rundir)  # the same supervisor: nobody starts one here
    record = await second.wait("c1")
    assert record["exit_code"] == 3
    assert home.output("c1") == b"".join(b"line %d\n" % number for number in range(30000))
    await second.close()
    await home.open()
    await home.close()


async def test_the_supervisor_lives_in_a_session_and_cgroup_of_its_own(home: Home) -> None:
    pid = await home.pid()
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    lines = text_of(f"/proc/{pid}/cgroup").splitlines()
    assert all(line.endswith(home.cgroup_parent + "/supervisor") for line in lines)


@pytest.mark.parametrize(("field", "value"), [("boot_id", "another-boot"), ("start_time", 1)])
async def test_a_process_of_another_boot_or_with_another_start_is_not_ours(home: Home, field: str, value: str | int) -> None:
    """Pids come round again: what carries the recorded number now may be anybody."""
    await home.run("c1", "sleep", "600")
    supervisor = home.supervisor
    await home.client.close()  # no store
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: gone(supervisor, None), "the supervisor is dead")
    values = home.noted("c1")
    ledger = home.ledger()
    ledger.append("c1", {**values, field: value})
    ledger.close()
    await home.open()
    record = await home.client.wait("c1")
    assert (record["state"], record["exit_code"], record["exit_known"]) == ("exited", None, False)


async def test_always_restarts_also_after_an_end_that_nobody_saw(home: Home) -> None:
    pid = await home.run("c1", "sleep", "600", restart={"name": "always"})
    started = start_time(pid)
    supervisor = home.supervisor
    await home.client.close()
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: gone(supervisor, None), "the supervisor is dead")
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid, started), "the container is dead")
    await home.open()
    async for event in home.client.events():
        record = event.get("container")
        if record is not None and record["restart_count"] == 1 and record["state"] == "running":
            break
    assert record["pid"] not in (0, pid)


async def test_files_that_a_power_cut_emptied_lose_no_container(home: Home) -> None:
    """What is written without waiting for the disk may come back empty: it speaks of processes that are gone."""
    await home.run("c1", "sh", "-c", "exit 3")
    await home.client.wait("c1")
    directory = Path(home.statedir) / "c1"
    (directory / "exec").mkdir(exist_ok=True)
    for name in ("hook", "shim", "init.pid", "exec/e1"):
        (directory / name).write_bytes(b"")
    await home.crash()
    record = await home.client.state("c1")
    assert (record["state"], record["exit_code"]) == ("exited", 3)
    await home.client.delete("c1")
