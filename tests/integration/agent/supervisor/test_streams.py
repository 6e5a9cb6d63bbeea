from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
from pathlib import Path

import pytest

from agent.protocol.errors import RemoteError
from agent.runtime.defaults import default_config
from tests.integration.agent.supervisor.home import Home, read_all, run_program, until

pytestmark = pytest.mark.root


async def test_binary_output_with_huge_lines_is_logged_byte_for_byte(home: Home) -> None:
    data = os.urandom(300_000) + b"x" * 100_000 + b"\n" + "ä€𝄞".encode() * 20_000 + b"\xff\n\n" + b"no newline at the end"
    (home.rootfs_path / "tmp/blob").write_bytes(data)
    await home.run("c1", "cat", "/tmp/blob")
    await home.client.wait("c1")
    assert home.output("c1") == data
    texts = [entry["log"].encode("utf-8", "surrogateescape") for entry in home.lines("c1")]
    assert max(map(len, texts)) <= 16 << 10  # Docker's chunk


async def test_a_line_written_in_pieces_is_one_entry(home: Home) -> None:
    await home.sh("c1", "printf one; sleep 0.2; printf two; sleep 0.2; echo three")
    await home.client.wait("c1")
    assert [entry["log"] for entry in home.lines("c1")] == ["onetwothree\n"]


async def test_logs_rotate_by_size_and_keep_the_newest(home: Home) -> None:
    await home.run("c1", "seq", "1", "20000", log={"driver": "json-file", "max-size": 64 << 10, "max-file": 3})
    await home.client.wait("c1")
    directory = f"{home.statedir}/c1/logs"
    files = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.name.startswith("json.log")}
    assert set(files) == {"json.log", "json.log.1", "json.log.2"}
    assert all(size < (64 << 10) + 200 for size in files.values())
    assert min(files["json.log.1"], files["json.log.2"]) >= 64 << 10
    numbers = [int(line) for line in home.output("c1").split()]
    assert numbers == list(range(numbers[0], 20001))
    assert numbers[0] > 1


async def test_log_driver_none_keeps_nothing_but_attach_works(home: Home) -> None:
    await home.make("c1", "echo", "hello", log={"driver": "none"})
    attachment = await home.client.attach("c1")
    await home.client.start("c1")
    await home.client.wait("c1")
    assert read_all(attachment.stdout_fd) == b"hello\n"
    assert not glob.glob(f"{home.statedir}/c1/logs/json.log*")
    with pytest.raises(RemoteError) as refused:
        await home.make("c2", "true", log={"driver": "gelf"})
    assert refused.value.code == "invalid_log_options"


async def test_attached_before_the_start_nothing_is_missed(home: Home) -> None:
    await home.make("c1", "sh", "-c", "echo out; echo err >&2; seq 1 100000")
    attachment = await home.client.attach("c1")
    assert attachment.stdin_fd is None
    assert attachment.stderr_fd is not None
    await home.client.start("c1")
    out, err = await asyncio.gather(
        asyncio.to_thread(read_all, attachment.stdout_fd), asyncio.to_thread(read_all, attachment.stderr_fd)
    )
    assert out == b"out\n" + b"".join(b"%d\n" % number for number in range(1, 100001))
    assert err == b"err\n"


async def test_input_ends_with_the_first_client(home: Home) -> None:
    await home.make("c1", "cat", open_stdin=True, stdin_once=True)
    attachment = await home.client.attach("c1")
    assert attachment.stdin_fd is not None
    data = os.urandom(200_000)
    await home.client.start("c1")

    def write() -> None:
        with open(attachment.stdin_fd, "wb") as pipe:  # type: ignore[arg-type]  # checked above
            pipe.write(data)

    _, out = await asyncio.gather(asyncio.to_thread(write), asyncio.to_thread(read_all, attachment.stdout_fd))
    assert out == data
    assert (await home.client.wait("c1"))["exit_code"] == 0
    os.close(attachment.stderr_fd or -1)


async def test_input_stays_open_for_the_next_client(home: Home) -> None:
    await home.run("c1", "cat", config=default_config(["cat"]), open_stdin=True)
    for text in (b"one\n", b"two\n"):
        attachment = await home.client.attach("c1")
        os.write(attachment.stdin_fd or -1, text)
        assert await asyncio.to_thread(os.read, attachment.stdout_fd, 100) == text
        for fd in (attachment.stdin_fd, attachment.stdout_fd, attachment.stderr_fd):
            os.close(fd or -1)
    assert (await home.client.state("c1"))["state"] == "running"


async def test_a_slow_client_blocks_neither_the_loop_nor_other_containers(home: Home) -> None:
    await home.make("slow", "dd", "if=/dev/zero", "bs=65536", "count=160", config=None, log={"driver": "none"})
    attachment = await home.client.attach("slow")
    await home.client.start("slow")
    await home.run("other", "seq", "1", "50000")
    assert (await home.client.wait("other"))["exit_code"] == 0  # while nobody reads the slow one's output
    assert (await home.client.state("slow"))["state"] == "running"
    os.close(attachment.stderr_fd or -1)
    assert await asyncio.to_thread(read_all, attachment.stdout_fd) == bytes(160 * 65536)
    assert (await home.client.wait("slow"))["exit_code"] == 0


async def test_a_client_that_goes_away_does_not_hold_the_container(home: Home) -> None:
    await home.make("c1", "dd", "if=/dev/zero", "bs=65536", "count=160", log={"driver": "none"})
    attachment = await home.client.attach("c1")
    await home.client.start("c1")
    os.close(attachment.stdout_fd)
    os.close(attachment.stderr_fd or -1)
    assert (await home.client.wait("c1"))["exit_code"] == 0


async def test_a_terminal_is_typed_into_and_resized(home: Home) -> None:
    await home.make("c1", config=default_config(["sh"], terminal=True), open_stdin=True)
    attachment = await home.client.attach("c1")
    assert attachment.terminal
    await home.client.start("c1")
    await home.client.resize("c1", 33, 101)
    os.write(attachment.stdin_fd or -1, b"stty size; exit 7\n")
    assert (await home.client.wait("c1"))["exit_code"] == 7
    assert b"33 101" in read_all(attachment.stdout_fd)
    assert b"33 101" in home.output("c1")
    os.close(attachment.stdin_fd or -1)


async def test_another_user_may_open_dev_stdout(home: Home) -> None:
    config = default_config(["sh", "-c", "echo again > /dev/stdout; echo wrong > /dev/stderr"], uid=1000, gid=1000)
    await home.run("c1", config=config)
    assert (await home.client.wait("c1"))["exit_code"] == 0
    assert (home.output("c1"), home.output("c1", "stderr")) == (b"again\n", b"wrong\n")


def fill(path: Path) -> None:
    """Take all the room there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


async def test_a_full_disk_drops_output_and_harms_nothing(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "state").mkdir()
    assert run_program("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path / "state")).returncode == 0
    home = Home(tmp_path, rootfs)
    try:
        await home.open()
        await home.run("c1", "sh", "-c", "seq 1 100000; exit 3", config=None)
        assert (await home.client.wait("c1"))["exit_code"] == 3
        assert home.lines("c1")  # whole lines, up to the full disk
        filler = tmp_path / "state" / "filler"
        fill(filler)
        with pytest.raises(RemoteError):
            await home.run("c2", "true")
        assert [record["id"] for record in await home.client.list()] == ["c1"]
        await home.client.start("c1")
        assert (await home.client.wait("c1"))["exit_code"] == 3  # known, though nothing could be written
        filler.unlink()
        await home.client.delete("c1")
        await home.run("c3", "echo", "room again")
        assert (await home.client.wait("c3"))["exit_code"] == 0
        assert home.output("c3") == b"room again\n"
        await home.close()
    finally:
        run_program("umount", "--lazy", str(tmp_path / "state"))


async def test_exec_pipes(home: Home) -> None:
    await home.run("c1", "sleep", "600")
    process = {**default_config(["sh", "-c", "cat; echo err >&2; exit 9"])["process"]}
    session = await home.client.exec("c1", process, stdin=True)
    os.write(session.stdin_fd or -1, b"hello\n")
    os.close(session.stdin_fd or -1)
    assert await asyncio.to_thread(read_all, session.stdout_fd or -1) == b"hello\n"
    # the end of the stream comes after the exit code is stored
    state = await home.client.exec_state(session.exec_id)
    assert (state["running"], state["exit_code"]) == (False, 9)
    assert await home.client.exec_wait(session.exec_id) == 9
    assert read_all(session.stderr_fd or -1) == b"err\n"


async def test_exec_with_a_terminal(home: Home) -> None:
    await home.run("c1", "sleep", "600")
    process = {**default_config(["sh"])["process"]}
    session = await home.client.exec("c1", process, tty=True)
    console = session.console_fd or -1
    await home.client.resize("c1", 41, 99, exec_id=session.exec_id)
    os.write(console, b"stty size; exit 5\n")
    assert await home.client.exec_wait(session.exec_id) == 5
    assert b"41 99" in await asyncio.to_thread(read_all, console)
    with pytest.raises(RemoteError) as refused:
        await home.client.resize("c1", 10, 10, exec_id=session.exec_id)
    assert refused.value.code == "container_not_running"


async def test_a_closed_console_hangs_up(home: Home) -> None:
    await home.run("c1", "sleep", "600")
    session = await home.client.exec("c1", {**default_config(["sh"])["process"]}, tty=True)
    os.close(session.console_fd or -1)
    assert await home.client.exec_wait(session.exec_id) is not None


@pytest.mark.parametrize(("args", "code"), [(["/nosuch"], 127), (["/etc"], 126)])
async def test_exec_of_what_cannot_be_executed(home: Home, args: list[str], code: int) -> None:
    await home.run("c1", "sleep", "600")
    with pytest.raises(RemoteError) as refused:
        await home.client.exec("c1", {**default_config(args)["process"]}, exec_id="e1")
    assert refused.value.code == "exec_failed"
    assert await home.client.exec_wait("e1") == code


async def test_exec_is_refused_when_paused_or_not_running(home: Home) -> None:
    process = {**default_config(["true"])["process"]}
    await home.make("c1", "sleep", "600")
    with pytest.raises(RemoteError) as refused:
        await home.client.exec("c1", process)
    assert refused.value.code == "container_not_running"
    await home.client.start("c1")
    await home.client.pause("c1")
    with pytest.raises(RemoteError) as refused:
        await home.client.exec("c1", process)
    assert refused.value.code == "container_paused"


async def test_exec_is_killed_and_dies_with_its_container(home: Home) -> None:
    await home.run("c1", "sleep", "600")
    process = {**default_config(["sleep", "600"])["process"]}
    first, second = await home.client.exec("c1", process), await home.client.exec("c1", process)
    await home.client.exec_kill(first.exec_id, signal.SIGTERM)
    assert await home.client.exec_wait(first.exec_id) == 143
    await home.client.stop("c1", signal.SIGKILL, 5)
    assert await home.client.exec_wait(second.exec_id) == 137
    for fd in (first.stdout_fd, first.stderr_fd, second.stdout_fd, second.stderr_fd):
        assert read_all(fd or -1) == b""


async def test_the_log_of_a_container_is_complete_when_its_exit_is_told(home: Home) -> None:
    for number in range(10):
        id_ = f"c{number}"
        await home.run(id_, "seq", "1", "3000")
        await home.client.wait(id_)
        assert home.output(id_).split()[-1] == b"3000"
    await until(lambda: True, "done")
