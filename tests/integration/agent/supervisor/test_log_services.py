"""Log drivers that hand entries to a service: what arrives, and what a service that is slow or away does to a container."""

from __future__ import annotations

import array
import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.containers.logs import LogQuery, read_logs
from agent.protocol.errors import WharfError
from agent.protocol.logoptions import LogSettings
from agent.supervisor.journald import JournaldSink, field_name
from agent.supervisor.loop import Loop
from tests.integration.agent.supervisor.home import DEADLINE, Home, until

pytestmark = pytest.mark.root
HEADER = re.compile(rb"<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ (\S+) - (\S+) - (.*)", re.DOTALL)


def listener(family: int, kind: int, where: Any) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.bind(where)
    sock.settimeout(DEADLINE)
    return sock


def unframed(data: bytes) -> list[bytes]:
    """Entries counted in octets (RFC 6587)."""
    found, at = [], 0
    while at < len(data):
        space = data.index(b" ", at)
        at = space + 1 + int(data[at:space])
        found.append(data[space + 1 : at])
    return found


async def cached(home: Home, id_: str) -> bytes:
    """What `logs` reads."""
    entries = read_logs(Path(home.statedir, id_, "logs"), LogQuery())
    return b"".join([entry.render(False) async for entry in entries])


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


@pytest.mark.parametrize("scheme", ["udp", "unix"])
async def test_syslog_by_datagram(home: Home, tmp_path: Path, scheme: str) -> None:
    if scheme == "udp":
        sock = listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{sock.getsockname()[1]}"
    else:
        sock = listener(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / "log"))
        address = f"unix://{tmp_path}/log"
    log = {"driver": "syslog", "syslog-address": address, "syslog-facility": "local0", "tag": "web.1"}
    await home.sh("c1", "echo out; echo err >&2; printf part", log=log)
    assert (await home.client.wait("c1"))["exit_code"] == 0
    matches = [HEADER.fullmatch(await asyncio.to_thread(sock.recv, 65536)) for _ in range(3)]
    sock.close()
    entries = sorted(match.groups() for match in matches if match)
    assert entries == [
        (b"131", b"web.1", b"web.1", b"err"),
        (b"134", b"web.1", b"web.1", b"out"),
        (b"134", b"web.1", b"web.1", b"part"),
    ]
    assert sorted((await cached(home, "c1")).splitlines()) == [b"err", b"out", b"part"]


async def test_tcp_loses_nothing_over_upgrades(home: Home) -> None:
    server = listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    server.listen()
    log = {"driver": "syslog", "syslog-address": f"tcp://127.0.0.1:{server.getsockname()[1]}", "tag": "t"}
    await home.sh("c1", "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done", log=log)
    connection, _ = await asyncio.to_thread(server.accept)
    connection.settimeout(DEADLINE)
    reading = asyncio.create_task(asyncio.to_thread(until_closed, connection))
    for _ in range(3):
        await home.client.upgrade()
    record = await home.client.wait("c1")
    numbers = [int(entry.rpartition(b" ")[2]) for entry in unframed(await reading)]
    assert numbers == list(range(20000))
    assert (record["exit_code"], record["log_dropped"]) == (0, 0)
    connection.close()
    server.close()


async def test_a_slow_service_holds_the_container_but_not_the_supervisor(home: Home) -> None:
    """mode=blocking: the container waits, as with Docker; everybody else is served."""
    server = listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    server.listen()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    log = {"driver": "syslog", "syslog-address": address, "max-buffer-size": "64k", "cache-max-size": "64m"}
    text = "x" * 200
    await home.sh("slow", f"i=0; while [ $i -lt 60000 ]; do echo {text} $i; i=$((i+1)); done", log=log)
    connection, _ = await asyncio.to_thread(server.accept)
    cache = Path(home.statedir, "slow", "logs", "local.log")
    seen = [-1.0, 0.0]  # size, since

    def stands_still() -> bool:
        if cache.stat().st_size != seen[0]:
            seen[:] = [cache.stat().st_size, time.monotonic()]
        return time.monotonic() - seen[1] > 0.5

    await until(stands_still, "nothing more is read")
    assert (await home.client.state("slow"))["state"] == "running"
    began = time.monotonic()
    await home.sh("other", "echo hello")
    assert (await home.client.wait("other"))["exit_code"] == 0
    assert time.monotonic() - began < 5
    connection.settimeout(DEADLINE)
    data = await asyncio.to_thread(until_closed, connection)
    record = await home.client.wait("slow")
    assert [int(entry.rpartition(b" ")[2]) for entry in unframed(data)] == list(range(60000))
    assert (record["exit_code"], record["log_dropped"]) == (0, 0)
    connection.close()
    server.close()


async def test_non_blocking_drops_and_counts(home: Home) -> None:
    server = listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    server.listen()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    log = {
        "driver": "syslog",
        "syslog-address": address,
        "mode": "non-blocking",
        "max-buffer-size": "64k",
        "cache-max-size": "64m",
    }
    text = "x" * 200
    script = f"i=0; while [ $i -lt 60000 ]; do echo $i {text}; i=$((i+1)); done; echo done; exec sleep 600"
    await home.sh("c1", script, log=log)
    connection, _ = await asyncio.to_thread(server.accept)
    cache = Path(home.statedir, "c1", "logs")

    def written() -> bool:
        return (cache / "local.log").read_bytes()[-30:].find(b"done\n") >= 0

    await until(written, "the container was not held up")
    record = await home.client.state("c1")
    assert record["log_dropped"] > 0
    assert "non-blocking" in record["log_fault"]
    assert (await cached(home, "c1")).count(b"\n") == 60001  # `logs` has everything all the same
    connection.close()
    server.close()


async def test_a_service_that_is_away_holds_nobody_up_and_is_found_again(home: Home) -> None:
    server = listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    port = server.getsockname()[1]
    server.close()
    log = {"driver": "syslog", "syslog-address": f"tcp://127.0.0.1:{port}", "max-buffer-size": "64k"}
    script = (
        "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; trap 'echo last; exit 0' TERM; while :; do usleep 5000; done"
    )
    await home.sh("c1", script, log=log)

    def dropping() -> bool:
        return Path(home.statedir, "c1", "logs", "local.log").read_bytes().find(b"19999\n") >= 0

    await until(dropping, "everything was written")
    record = await home.client.state("c1")
    assert record["log_dropped"] > 0
    assert "away" in record["log_fault"]
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    server.settimeout(DEADLINE)
    connection, _ = await asyncio.to_thread(server.accept)
    connection.settimeout(DEADLINE)
    assert (await home.client.stop("c1", signal.SIGTERM, 20))["exit_code"] == 0
    entries = unframed(await asyncio.to_thread(until_closed, connection))
    assert entries[-1].endswith(b" last")
    assert entries[-2].endswith(b" 19999")
    connection.close()
    server.close()


async def test_nothing_is_kept_by_driver_none(home: Home) -> None:
    await home.sh("c1", "echo nothing", log={"driver": "none"})
    assert (await home.client.wait("c1"))["exit_code"] == 0
    assert [name for name in os.listdir(f"{home.statedir}/c1/logs") if not name.endswith(".tail")] == []


async def test_an_option_that_cannot_work_makes_no_container(home: Home) -> None:
    with pytest.raises(WharfError) as refused:
        await home.make("c1", "true", log={"driver": "syslog", "syslog-adress": "udp://127.0.0.1"})
    assert refused.value.code == "invalid_log_options"
    assert await home.client.list() == []


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_journald_gets_its_native_protocol(tmp_path: Path, loop: Loop) -> None:
    """Fields are Docker's; what is too large for a datagram comes in a sealed memory file."""
    path = str(tmp_path / "journal")
    journal = listener(socket.AF_UNIX, socket.SOCK_DGRAM, path)
    settings = LogSettings(
        {"driver": "journald", "name": "web.1", "image": "team/web:1", "attributes": {"io.team": "blue", "_9x": "y"}}
    )
    JournaldSink.path, before = path, JournaldSink.path
    try:
        sink = JournaldSink(loop, "f" * 64, settings, lambda: None, lambda _count, _why: None)
        sink.write("stdout", [b"hello\n", b"part"])
        sink.write("stderr", [b"oops\n"])
        large = b"y" * (1 << 20)
        sink.write("stdout", [large + b"\n"])
    finally:
        JournaldSink.path = before
    entries = [dict(line.split(b"=", 1) for line in journal.recv(65536).splitlines()) for _ in range(3)]
    assert entries[0] == {
        b"CONTAINER_ID": b"f" * 12,
        b"CONTAINER_ID_FULL": b"f" * 64,
        b"CONTAINER_NAME": b"web.1",
        b"CONTAINER_TAG": b"f" * 12,
        b"SYSLOG_IDENTIFIER": b"f" * 12,
        b"IMAGE_NAME": b"team/web:1",
        b"IO_TEAM": b"blue",
        b"X": b"y",
        b"PRIORITY": b"6",
        b"MESSAGE": b"hello",
    }
    assert entries[1][b"CONTAINER_PARTIAL_MESSAGE"] == b"true"
    assert (entries[2][b"PRIORITY"], entries[2][b"MESSAGE"]) == (b"3", b"oops")
    data, ancillary, _, _ = journal.recvmsg(65536, socket.CMSG_SPACE(4))
    (memfd,) = array.array("i", ancillary[0][2])
    assert data == b""
    assert os.pread(memfd, 2 << 20, 0).endswith(b"MESSAGE=" + large + b"\n")
    with pytest.raises(PermissionError):
        os.write(memfd, b"z")
    os.close(memfd)
    sink.close()
    journal.close()


def test_a_slow_journal_is_waited_for(tmp_path: Path, loop: Loop) -> None:
    path = str(tmp_path / "journal")
    journal = listener(socket.AF_UNIX, socket.SOCK_DGRAM, path)
    eased: list[bool] = []
    JournaldSink.path, before = path, JournaldSink.path
    try:
        sink = JournaldSink(
            loop,
            "f" * 64,
            LogSettings({"driver": "journald", "max-buffer-size": "4k"}),
            lambda: eased.append(True),
            lambda *_: None,
        )
        for number in range(400):
            sink.write("stdout", [b"%d\n" % number])
    finally:
        JournaldSink.path = before
    assert sink.full
    journal.setblocking(False)
    found: list[bytes] = []
    deadline = time.monotonic() + DEADLINE

    def take() -> None:
        try:
            while True:
                found.append(journal.recv(65536))
        except BlockingIOError:
            pass
        if len(found) == 400 or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.later(0.001, take)

    loop.later(0, take)
    eased.clear()
    loop.run()
    assert [int(entry.rpartition(b"MESSAGE=")[2]) for entry in found] == list(range(400))
    assert eased
    assert not sink.full
    sink.close()
    journal.close()


@pytest.mark.parametrize(("text", "name"), [("a.b-c", "A_B_C"), ("_1x", "X"), ("123", ""), ("größe", "GR_SSE")])
def test_field_names(text: str, name: str) -> None:
    assert field_name(text) == name
