"""A container with a shim: true exit statuses and whole logs through kills of the supervisor, and of the shim itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import WharfError
from agent.runtime.defaults import default_config
from agent.supervisor import shim
from agent.supervisor.leases import LeaseFile
from agent.supervisor.processes import start_time, stat_fields
from agent.supervisor.record import boot_id
from tests.integration.agent.supervisor.home import Home, gone, read_all, until

pytestmark = pytest.mark.root

COUNT = "i=0; while test $i -lt {n}; do echo line $i; i=$((i+1)); done; exit {code}"


def parent(pid: int) -> int:
    fields = stat_fields(pid)
    assert fields is not None
    return int(fields[1])


def shims(home: Home) -> set[int]:
    """Every shim of this supervisor, also of one that is dead: stems have the same name."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            ours = home.rundir.encode() in path.with_name("cmdline").read_bytes().split(b"\0")
            if ours and path.read_bytes().strip() == shim.NAME:
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture
def flag(home: Home, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file that containers see as /tmp/go."""
    path = home.rootfs_path / "tmp" / "go"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


async def own_shim(home: Home, id_: str) -> int:
    """Its pid; never 0, which to kill(2) would be ourselves."""
    pid = int((await home.client.state(id_))["shim"])
    assert pid > 1
    return pid


async def bereave(home: Home) -> None:
    """kill -9 of supervisor and agent alike: nobody but shims holds anything now."""
    supervisor = await home.pid()
    await home.client.close()  # the store goes with it
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: gone(supervisor, None), "the supervisor is dead")


async def test_a_shim_is_the_parent_and_goes_with_its_container(home: Home) -> None:
    pid = await home.run("c1", "sleep", "600", isolation="shim")
    shared = await home.run("c2", "sleep", "600")
    record = await home.client.state("c1")
    assert (record["isolation"], record["shim"]) == ("shim", parent(pid))
    assert parent(record["shim"]) == home.supervisor
    other = await home.client.state("c2")
    assert (other["isolation"], other["shim"], parent(shared)) == ("shared", 0, home.supervisor)
    session = await home.client.exec("c1", {**default_config(["sh", "-c", "exit 8"])["process"]})
    assert await home.client.exec_wait(session.exec_id) == 8
    for fd in (session.stdout_fd, session.stderr_fd):
        os.close(fd or -1)
    started = start_time(record["shim"])
    ended = await home.client.stop("c1", signal.SIGKILL, None)
    assert (ended["exit_code"], ended["signal"], ended["shim"]) == (137, 9, 0)
    await until(lambda: start_time(record["shim"]) != started, "the shim is gone, and reaped")
    await until(lambda: start_time(pid) is None, "its container is reaped")
    assert await home.client.start("c1")
    again = await home.client.state("c1")
    assert again["shim"] not in (0, record["shim"])


@pytest.mark.parametrize(("script", "code", "number"), [("exit 7", 7, None), ("kill -9 $$", 137, 9), ("exit 0", 0, None)])
async def test_an_exit_that_no_one_lived_to_see_is_known(
    home: Home, flag: Path, script: str, code: int, number: int | None
) -> None:
    wait = "until test -e /tmp/go; do usleep 1000; done; echo last words;"
    pid = await home.sh("c1", f"trap '' INT; {wait} {script}", isolation="shim", config=host_pids(f"{wait} {script}"))
    started = start_time(pid)
    await bereave(home)
    flag.touch()
    await until(lambda: gone(pid, started), "it has ended")
    await home.open()
    record = await home.client.wait("c1")
    assert (record["exit_code"], record["signal"], record["exit_known"]) == (code, number, True)
    assert home.output("c1") == b"last words\n"
    await until(lambda: start_time(pid) is None, "it was reaped")


def host_pids(script: str) -> dict[str, Any]:
    """Without a pid namespace: the first process of one cannot kill itself."""
    config = default_config(["sh", "-c", script])
    config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]
    return config


async def test_no_line_is_lost_or_doubled_over_kills(home: Home, flag: Path) -> None:
    """Numbered lines, as fast as they come, while the supervisor is killed again and again, and the agent with it at times."""
    await home.sh("c1", "until test -e /tmp/go; do usleep 1000; done; " + COUNT.format(n=60_000, code=3), isolation="shim")
    flag.touch()
    for number in range(8):
        before = len(home.output("c1"))
        await until(lambda: len(home.output("c1")) > before or not running(home), "the log grows")  # noqa: B023  # awaited here
        if number % 3 == 2:
            await bereave(home)
            await home.open()
        else:
            await home.crash()
    record = await home.client.wait("c1")
    assert (record["exit_code"], record["exit_known"]) == (3, True)
    assert home.output("c1").split(b"\n") == [*(b"line %d" % number for number in range(60_000)), b""]


def running(home: Home) -> bool:
    return not home.noted("c1").get("exit_known")


async def test_more_than_a_pipe_holds_waits_for_the_next_supervisor(home: Home, flag: Path) -> None:
    pid = await home.sh("c1", "until test -e /tmp/go; do usleep 1000; done; seq 1 50000; exit 4", isolation="shim")
    started = start_time(pid)
    await bereave(home)
    flag.touch()
    await until(lambda: waits_in_write(pid), "the pipe is full")
    assert not gone(pid, started)
    await home.open()
    assert (await home.client.wait("c1"))["exit_code"] == 4
    assert home.output("c1").split() == [b"%d" % number for number in range(1, 50_001)]


def waits_in_write(pid: int) -> bool:
    """Of the container's first process or a child of it (proc(5), wchan)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any("pipe" in Path(f"/proc/{each}/wchan").read_text() for each in [str(pid), *children])


async def test_a_terminal_is_kept(home: Home) -> None:
    await home.make("c1", config=default_config(["sh"], terminal=True), open_stdin=True, isolation="shim")
    await home.client.start("c1")
    await bereave(home)
    await home.open()
    attachment = await home.client.attach("c1")
    await home.client.resize("c1", 21, 61)
    os.write(attachment.stdin_fd or -1, b"stty size; exit 4\n")
    assert (await home.client.wait("c1"))["exit_code"] == 4
    assert b"21 61" in read_all(attachment.stdout_fd)
    os.close(attachment.stdin_fd or -1)


async def test_input_stays_open(home: Home) -> None:
    await home.sh("c1", "while read x; do echo got $x; done; exit 5", open_stdin=True, isolation="shim")
    await bereave(home)
    await home.open()
    assert (await home.client.state("c1"))["state"] == "running"
    attachment = await home.client.attach("c1")
    os.write(attachment.stdin_fd or -1, b"it\n")
    await until(lambda: home.output("c1") == b"got it\n", "it was read")
    for fd in (attachment.stdin_fd, attachment.stdout_fd, attachment.stderr_fd):
        os.close(fd or -1)


async def test_the_death_of_the_shim_leaves_the_container_to_the_supervisor(home: Home) -> None:
    pid = await home.sh("c1", "trap 'echo bye; exit 6' TERM; echo up; while :; do usleep 1000; done", isolation="shim")
    os.kill(await own_shim(home, "c1"), signal.SIGKILL)
    await until(lambda: parent(pid) == home.supervisor, "the supervisor is its parent")
    await home.client.hello()
    seen = await home.client.state("c1")
    assert (seen["state"], seen["pid"], seen["shim"], seen["isolation"]) == ("running", pid, 0, "shim")
    await home.crash()  # as any other container
    ended = await home.client.stop("c1", signal.SIGTERM, 20)
    assert (ended["exit_code"], ended["exit_known"]) == (6, True)
    assert home.output("c1") == b"up\nbye\n"
    assert await home.client.start("c1")
    assert (await home.client.state("c1"))["shim"]  # a new one


async def test_the_death_of_the_shim_while_no_supervisor_lives(home: Home) -> None:
    """As after a crash without shims: the container runs on, and is found again."""
    pid = await home.run("c1", "sleep", "600", isolation="shim")
    own = await own_shim(home, "c1")
    started, born = start_time(pid), start_time(own)
    await bereave(home)
    os.kill(own, signal.SIGKILL)
    await until(lambda: gone(own, born), "the shim is dead")
    await home.open()
    record = await home.client.state("c1")
    assert (record["state"], record["pid"], record["start_time"], record["shim"]) == ("running", pid, started, 0)


async def test_a_stem_that_is_killed_is_replaced(home: Home) -> None:
    await home.run("c1", "sleep", "600", isolation="shim")
    own = await own_shim(home, "c1")
    stem = next(pid for pid in shims(home) if pid != own and parent(pid) == home.supervisor)
    os.kill(stem, signal.SIGKILL)
    assert await home.run("c2", "sleep", "600", isolation="shim")
    assert (await home.client.state("c2"))["shim"]


async def test_an_upgrade_changes_nothing(home: Home) -> None:
    pid = await home.sh("c1", "trap 'exit 9' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 500; done", isolation="shim")
    own = await own_shim(home, "c1")
    for _ in range(3):
        await home.client.upgrade()
        record = await home.client.state("c1")
        assert (record["pid"], record["shim"], parent(pid)) == (pid, own, own)
    assert await home.run("c2", "true", isolation="shim")
    assert (await home.client.wait("c2"))["exit_code"] == 0
    assert (await home.client.stop("c1", signal.SIGTERM, 20))["exit_code"] == 9
    numbers = [int(line) for line in home.output("c1").split()]
    assert numbers == list(range(len(numbers)))


async def test_the_lease_ends_a_container_whose_supervisor_and_agent_are_dead(home: Home) -> None:
    home.client.granted(time.clock_gettime(time.CLOCK_BOOTTIME), 60.0)
    pid = await home.run("c1", "sh", "-c", "sleep 600 & sleep 600", lease=1.0, isolation="shim")
    free = await home.run("c2", "sleep", "600", isolation="shim")
    started = start_time(pid)
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    await bereave(home)
    LeaseFile(home.rundir, boot_id()).grant(began + 0.2, 60.0)  # the agent's last word: renewed once
    await until(lambda: gone(pid, started), "it was killed")
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= began + 1.2
    assert not gone(free, None)
    await home.open()
    record = await home.client.wait("c1")
    assert (record["exit_code"], record["exit_known"]) == (137, True)
    assert "lease" in record["error"]


@pytest.mark.parametrize(("args", "code"), [(["/nowhere"], 127), (["/etc"], 126)])
async def test_a_program_that_cannot_be_executed(home: Home, args: list[str], code: int) -> None:
    await home.make("c1", *args, isolation="shim")
    with pytest.raises(WharfError) as refused:
        await home.client.start("c1")
    assert refused.value.code == "exec_failed"
    record = await home.client.state("c1")
    assert (record["state"], record["exit_code"], record["shim"]) == ("exited", code, 0)


async def test_what_cannot_be_made_leaves_no_shim(home: Home) -> None:
    config = default_config(["true"])
    config["mounts"].append({"destination": "/x", "type": "bind", "source": "/nowhere/at/all", "options": ["bind"]})
    with pytest.raises(WharfError) as refused:
        await home.make("c1", config=config, isolation="shim")
    assert refused.value.code == "runtime_failed"
    await until(lambda: len(shims(home)) <= 1, "at most the stem is there")
    with pytest.raises(WharfError, match="isolation is 'vm'"):
        await home.make("c1", "true", isolation="vm")
    assert home.directories() == []


async def test_a_supervisor_that_dies_in_a_creation_leaves_no_shim(home: Home) -> None:
    making = [asyncio.create_task(home.make(f"c{number}", "true", isolation="shim")) for number in range(10)]
    await until(lambda: shims(home), "one begins")
    await home.crash()
    await asyncio.gather(*making, return_exceptions=True)
    for record in await home.client.list():
        assert record["state"] == "created"
        await home.client.delete(record["id"], force=True)
    await until(lambda: len(shims(home)) <= 1, "at most a stem is there")


async def test_the_restart_policy_goes_on(home: Home) -> None:
    await home.sh("c1", "usleep 20000; exit 3", restart={"name": "on-failure", "max": 3}, isolation="shim")
    record = await home.client.wait("c1")
    assert (record["restart_count"], record["exit_code"], record["exit_known"]) == (3, 3, True)


async def test_a_process_that_joins_namespaces_leaves_no_stage_behind(home: Home) -> None:
    """Two stages make such a container: the first was the shim's child as well."""
    pid = await home.run("c1", "sleep", "600")
    config = default_config(["sleep", "600"])
    for item in config["linux"]["namespaces"]:
        if item["type"] == "pid":
            item["path"] = f"/proc/{pid}/ns/pid"
    await home.run("c2", config=config, isolation="shim")
    record = await home.client.state("c2")
    children = Path(f"/proc/{record['shim']}/task/{record['shim']}/children")
    await until(lambda: children.read_text().split() == [str(record["pid"])], "only the container is there")
