"""The supervisor replaces itself by execv: nothing and nobody may notice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent.containers.logs import LogQuery, read_logs
from agent.protocol.errors import RemoteError
from agent.runtime.defaults import default_config
from agent.supervisor.processes import start_time
from tests.integration.agent.supervisor.home import Home, read_all, until

pytestmark = pytest.mark.root

COUNT = "i=0; while [ $i -lt {n} ]; do echo $i; i=$((i+1)); done"


async def test_twenty_upgrades_under_load_lose_no_byte(home: Home) -> None:
    supervisor = await home.pid()
    pids = {}
    for id_ in ("a", "b", "c"):
        pids[id_] = await home.sh(id_, "trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); done")
    started = {id_: start_time(pid) for id_, pid in pids.items()}
    for generation in range(2, 22):
        assert await home.client.upgrade() == {"generation": generation, "pid": supervisor}
    for id_, pid in pids.items():
        record = await home.client.state(id_)
        assert (record["state"], record["pid"], record["start_time"]) == ("running", pid, started[id_])
        assert start_time(pid) == started[id_]
    for id_ in pids:
        assert (await home.client.stop(id_, signal.SIGTERM, 20))["exit_code"] == 0
        numbers = [int(line.split()[1]) for line in home.output(id_).splitlines()]
        first = numbers[0]  # 3 x 10 MB may have been rotated away
        assert numbers == list(range(first, first + len(numbers)))


async def test_an_unfinished_line_survives(home: Home) -> None:
    await home.sh("c1", "printf begun; read x; echo ' and ended'", open_stdin=True)
    tail = Path(home.statedir, "c1", "logs", "stdout.tail")
    await until(lambda: tail.exists() and tail.read_bytes().endswith(b"begun"), "the beginning was read")
    await home.client.upgrade()
    attachment = await home.client.attach("c1")
    os.write(attachment.stdin_fd or -1, b"\n")
    await home.client.wait("c1")
    assert [entry["log"] for entry in home.lines("c1")] == ["begun and ended\n"]
    for fd in (attachment.stdin_fd, attachment.stdout_fd, attachment.stderr_fd):
        os.close(fd or -1)


async def test_open_questions_are_answered_by_the_next_generation(home: Home) -> None:
    await home.sh("c1", "trap 'sleep 0.5; exit 3' TERM; echo ready; while :; do sleep 0.02; done")
    await home.run("c2", "sleep", "600")
    session = await home.client.exec("c2", {**default_config(["sh", "-c", "sleep 0.5; exit 6"])["process"]})
    await until(lambda: home.output("c1"), "it is ready")
    stop = asyncio.create_task(home.client.stop("c1", signal.SIGTERM, 30))
    wait = asyncio.create_task(home.client.wait("c1"))
    ended = asyncio.create_task(home.client.exec_wait(session.exec_id))
    await asyncio.sleep(0)  # let the questions go out
    assert (await home.client.upgrade())["generation"] == 2
    assert (await stop)["exit_code"] == 3
    assert (await wait)["exit_code"] == 3
    assert await ended == 6
    assert read_all(session.stdout_fd or -1) + read_all(session.stderr_fd or -1) == b""


async def test_a_grace_under_way_ends_when_it_should(home: Home) -> None:
    await home.sh("c1", "trap '' TERM; echo ready; while :; do sleep 0.02; done")
    await until(lambda: home.output("c1"), "it is ready")
    stop = asyncio.create_task(home.client.stop("c1", signal.SIGTERM, 1.0))
    await asyncio.sleep(0)
    await home.client.upgrade()
    assert (await stop)["signal"] == 9


async def test_attachments_go_on(home: Home) -> None:
    await home.make("c1", "sh", "-c", "seq 1 20000; read x; echo $x; seq 20001 40000", open_stdin=True)
    attachment = await home.client.attach("c1")
    await home.client.start("c1")
    await home.client.upgrade()  # while up to a backlog's worth is unread
    os.write(attachment.stdin_fd or -1, b"typed\n")
    out = await asyncio.to_thread(read_all, attachment.stdout_fd)
    numbers = list(range(1, 20001))
    expected = "".join(f"{n}\n" for n in numbers) + "typed\n" + "".join(f"{n}\n" for n in range(20001, 40001))
    assert out == expected.encode()
    os.close(attachment.stdin_fd or -1)
    os.close(attachment.stderr_fd or -1)


async def test_a_terminal_goes_on(home: Home) -> None:
    await home.make("c1", config=default_config(["sh"], terminal=True), open_stdin=True)
    attachment = await home.client.attach("c1")
    await home.client.start("c1")
    await home.client.upgrade()
    await home.client.resize("c1", 20, 60)
    os.write(attachment.stdin_fd or -1, b"stty size; exit 2\n")
    assert (await home.client.wait("c1"))["exit_code"] == 2
    assert b"20 60" in read_all(attachment.stdout_fd)
    os.close(attachment.stdin_fd or -1)


async def test_a_created_container_can_still_be_started(home: Home) -> None:
    await home.make("c1", "echo", "hello")
    attachment = await home.client.attach("c1")
    await home.client.upgrade()
    await home.client.start("c1")
    assert (await home.client.wait("c1"))["exit_code"] == 0
    assert read_all(attachment.stdout_fd) == b"hello\n"
    os.close(attachment.stderr_fd or -1)


async def test_sighup_upgrades_too(home: Home) -> None:
    pid = await home.pid()
    os.kill(pid, signal.SIGHUP)
    deadline = asyncio.get_running_loop().time() + 20
    while (await home.client.hello())["generation"] != 2:
        assert asyncio.get_running_loop().time() < deadline
    assert await home.pid() == pid


async def test_descriptors_do_not_pile_up(home: Home) -> None:
    pid = await home.pid()
    await home.run("c1", "sleep", "600")
    await home.client.upgrade()
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _round in range(5):
        await home.client.upgrade()
    assert len(os.listdir(f"/proc/{pid}/fd")) == before


async def test_a_program_that_does_not_start_is_not_taken(tmp_path: Path, rootfs: Path) -> None:
    home = Home(tmp_path, rootfs)
    script = tmp_path / "program.py"
    root = Path(__file__).parents[4]
    good = f"import sys\nsys.path.insert(0, {str(root)!r})\nfrom agent.supervisor.main import main\nsys.exit(main(sys.argv))\n"
    script.write_text(good)
    await home.open(script=str(script))
    pid = await home.run("c1", "sleep", "600")
    script.write_text("import nothing_of_that_name\n")
    with pytest.raises(RemoteError) as refused:
        await home.client.upgrade()
    assert refused.value.code == "upgrade_failed"
    assert refused.value.retry
    hello = await home.client.hello()
    assert hello["generation"] == 1
    assert (await home.client.state("c1"))["pid"] == pid
    script.write_text(good)
    assert (await home.client.upgrade())["generation"] == 2
    await home.close()


async def test_a_container_cannot_reach_the_hosts_interpreter_through_the_supervisor(home: Home) -> None:
    """CVE-2019-5736: containers descend from a program on a read-only filesystem, mounted nowhere. Host root may not write."""
    for _generation in range(2):
        pid = await home.pid()
        assert not os.path.exists(os.readlink(f"/proc/{pid}/exe")), "it is no file of this host"
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/{pid}/exe", os.O_WRONLY)
        await home.client.upgrade()


async def test_rounds_of_upgrades(home: Home) -> None:
    """WHARF_UPGRADES says how many (100 are asked of a release): every one under load, no byte lost, nobody restarted."""
    rounds = int(os.environ.get("WHARF_UPGRADES", "10"))
    supervisor, started = await home.pid(), start_time(await home.pid())
    script = "i=0; while :; do echo $i; i=$((i+1)); usleep 300; done"
    pids = {id_: await home.sh(id_, script, log={"driver": driver}) for id_, driver in (("a", "json-file"), ("b", "local"))}
    ages = {id_: start_time(pid) for id_, pid in pids.items()}
    for generation in range(2, rounds + 2):
        assert await home.client.upgrade() == {"generation": generation, "pid": supervisor}
    assert start_time(supervisor) == started
    for id_, pid in pids.items():
        record = await home.client.state(id_)
        assert (record["pid"], record["start_time"], start_time(pid)) == (pid, ages[id_], ages[id_])
        await home.client.stop(id_, signal.SIGKILL, 20)
        entries = read_logs(Path(home.statedir, id_, "logs"), LogQuery())
        numbers = [int(entry.text) async for entry in entries]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > rounds
