"""The socket itself: what it refuses, and who may hold it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.supervisor import wire
from agent.supervisor.client import Supervisor
from agent.supervisor.processes import start_time
from agent.supervisor.start import SupervisorAway, answers, program
from tests.integration.agent.supervisor.home import Home, gone, until

pytestmark = pytest.mark.root


class Raw:
    """A client that may say anything."""

    def __init__(self, rundir: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.sock.connect(rundir + "/supervisor.sock")

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def answer(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.sock.recv(1 << 20))
        return message

    def ask(self, data: bytes, fds: list[int] | None = None) -> dict[str, Any]:
        self.send(data, fds)
        return self.answer()

    def code(self, data: bytes, fds: list[int] | None = None) -> str:
        return str(self.ask(data, fds)["error"]["code"])


@pytest.fixture
def raw(home: Home) -> Iterator[Raw]:
    raw = Raw(home.rundir)
    yield raw
    raw.sock.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"n": 1} x', "invalid_json"),
        (b"[" * 60_000, "invalid_json"),
        (b"[]", "malformed_message"),
        (b"7", "malformed_message"),
        (b"{}", "unknown_operation"),
        (b'{"n": 1, "op": ["list"]}', "unknown_operation"),
        (b'{"n": 1, "op": "mount"}', "unknown_operation"),
        (b'{"n": 1, "op": "state"}', "invalid_request"),
        (b'{"n": 1, "op": "state", "id": 7}', "invalid_request"),
        (b'{"n": 1, "op": "state", "id": "x"}', "no_such_container"),
        (b'{"n": 1, "op": "exec_wait", "exec_id": "x"}', "no_such_exec"),
        (b'{"n": 1, "op": "kill", "id": "x", "signal": 9}', "no_such_container"),
        (b'{"n": 1, "op": "memfd", "memfd": true}', "malformed_message"),
        (b'{"n": 1, "op": "create", "id": "x", "config": {}, "rootfs": []}', "invalid_request"),
        (b'{"n": 1, "op": "give", "id": "x", "pid": 1, "start_time": 1, "kinds": ["pidfd"]}', "invalid_request"),
        (b" " * ((64 << 10) + 1), "message_too_large"),
    ],
)
async def test_what_is_malformed_is_refused_with_a_code(raw: Raw, data: bytes, code: str) -> None:
    assert raw.code(data) == code
    assert raw.ask(b'{"n": 2, "op": "list"}') == {"n": 2, "ok": {"containers": []}}  # and the connection goes on


@pytest.mark.parametrize("id_", ["..", "../x", "a/b", "", "supervisor", "-x", "x" * 129, "ü", "a\0b"])
async def test_ids_that_could_be_paths_are_refused(home: Home, raw: Raw, id_: str) -> None:
    config = {"process": {"args": ["true"], "cwd": "/"}}
    message = {"n": 1, "op": "create", "id": id_, "config": config, "rootfs": []}
    assert raw.code(json.dumps(message).encode()) == "invalid_request"
    assert home.directories() == []


async def test_bodies_must_be_sealed_and_bounded(raw: Raw) -> None:
    announce = b'{"n": 1, "memfd": true}'
    unsealed = os.memfd_create("body", os.MFD_ALLOW_SEALING)
    huge = os.memfd_create("body", os.MFD_ALLOW_SEALING)
    os.ftruncate(huge, wire.BODY + 1)
    fcntl.fcntl(huge, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    read, write = os.pipe()
    garbage = wire.sealed(b"{")
    fine = wire.sealed(b'{"n": 5, "op": "list"}')
    assert raw.code(announce, [unsealed]) == "malformed_message"
    assert raw.code(announce, [huge]) == "message_too_large"
    assert raw.code(announce, [read]) == "malformed_message"
    assert raw.code(announce, [garbage]) == "invalid_json"
    assert raw.code(b'{"n": 1, "op": "list"}', [read] * 17) == "message_too_large"
    assert raw.ask(announce, [fine]) == {"n": 5, "ok": {"containers": []}}
    for fd in (unsealed, huge, read, write, garbage, fine):
        os.close(fd)


async def test_refused_messages_leak_no_descriptor(home: Home, raw: Raw) -> None:
    raw.ask(b'{"n": 1, "op": "list"}')  # the connection is accepted
    before = len(os.listdir(f"/proc/{home.supervisor}/fd"))
    read, write = os.pipe()
    for data in (b"{", b'{"n": 1, "op": "list"}', b'{"n": 1, "memfd": true}', b" " * 70_000):
        for count in (1, 16, 17):
            raw.ask(data, [read] * count)
    os.close(read)
    os.close(write)
    assert len(os.listdir(f"/proc/{home.supervisor}/fd")) == before


async def test_a_client_that_does_not_read_is_cut_off_and_blocks_nobody(home: Home, raw: Raw) -> None:
    assert "ok" in raw.ask(b'{"n": 1, "op": "subscribe"}')
    raw.sock.setblocking(False)
    flood = b'{"n": 1, "op": "hello"}'
    sent = 0
    while True:  # until the supervisor has stopped asking us
        try:
            raw.send(flood)
            sent += 1
        except BlockingIOError:
            break
        if sent % 100 == 0:
            await home.client.list()
    await home.run("c1", "true")
    assert (await home.client.wait("c1"))["exit_code"] == 0


async def test_another_user_may_not_speak(home: Home) -> None:
    os.chmod(home.rundir, 0o755)
    os.chmod(home.rundir + "/supervisor.sock", 0o666)
    script = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "os.chdir(sys.argv[1])\n"  # while still root: what is under test is the check of the peer, not of the path
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sock.connect('supervisor.sock')\n"
        "print(sock.recv(65536).decode())\n"
        "print(sock.recv(65536) == b'')\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-I", "-c", script, home.rundir], capture_output=True, text=True, check=False
    )
    first, end = done.stdout.splitlines()
    assert json.loads(first)["error"]["code"] == "peer_denied", done.stderr
    assert end == "True"


async def test_directories_are_for_root_alone(home: Home) -> None:
    await home.make("c1", "true")
    for path in (home.rundir, home.statedir, home.statedir + "/c1"):
        assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(home.rundir + "/supervisor.sock").st_mode & 0o777 == 0o600


async def test_a_second_supervisor_refuses_to_start(home: Home) -> None:
    words = [sys.executable, "-I", "-S", program(), "--root", home.rundir, "--state", home.statedir]
    done = await asyncio.to_thread(
        subprocess.run, [*words, "--cgroup-parent", home.cgroup_parent], capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert "another supervisor" in done.stderr
    assert (await home.client.hello())["generation"] == 1


async def test_arguments_are_checked() -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, program(), "--rot", "/x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert "usage" in done.stderr


async def test_many_starters_make_one_supervisor(tmp_path: Path, rootfs: Path) -> None:
    home = Home(tmp_path, rootfs)
    starters = (Supervisor.ensure(home.rundir, home.statedir, home.cgroup_parent) for _number in range(5))
    clients = await asyncio.gather(*starters)
    assert len({client.instance for client in clients}) == 1
    for client in clients:
        await client.close()
    await home.open()
    await home.close()


async def test_a_stale_socket_is_replaced(tmp_path: Path, rootfs: Path) -> None:
    home = Home(tmp_path, rootfs)
    os.makedirs(home.rundir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(home.rundir + "/supervisor.sock")
    assert not answers(home.rundir)
    with pytest.raises(SupervisorAway):
        await Supervisor.connect(home.rundir)
    await home.open()
    await home.close()


async def test_the_end_of_the_supervisor_leaves_containers(tmp_path: Path, rootfs: Path) -> None:
    home = Home(tmp_path, rootfs)
    await home.open()
    pid = await home.run("c1", "sleep", "600")
    started = start_time(pid)
    await home.client.shutdown()
    await until(lambda: gone(home.supervisor, None), "the supervisor has ended")
    await home.client.close()
    assert not answers(home.rundir)  # the client started no other one
    assert start_time(pid) == started
    await home.open()
    assert (await home.client.state("c1"))["pid"] == pid
    await home.close()


async def test_a_damaged_state_directory_harms_only_itself(home: Home) -> None:
    pid = await home.run("good", "sleep", "600")
    await home.run("bad", "sleep", "601")
    bad = (await home.client.state("bad"))["pid"]
    os.mkdir(home.statedir + "/half")  # a creation that a crash cut short
    state = home.statedir + "/bad/state.json"
    os.rename(state, state + ".whole")
    os.symlink("/etc/hostname", state)  # not JSON
    await home.crash()
    records = {record["id"]: record for record in await home.client.list()}
    assert set(records) == {"good"}
    assert records["good"]["pid"] == pid
    assert "half" not in os.listdir(home.statedir)
    assert start_time(bad)  # not known, but not harmed
    os.rename(state + ".whole", state)
    await home.crash()
    assert (await home.client.state("bad"))["pid"] == bad


async def test_modules_stay_few(home: Home) -> None:
    """Memory: what the supervisor may import. Each of the forbidden costs half a megabyte or more."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agent.supervisor.main, agent.supervisor.launch;"
        "print('\\n'.join(sorted(sys.modules)))"
    )
    root = str(Path(__file__).parents[4])
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    names = set(done.stdout.split())
    outside = {name for name in names if not name.startswith(("agent", "_", "encodings"))}
    allowed = {
        *(
            "abc",
            "builtins",
            "codecs",
            "ctypes",
            "ctypes._endian",
            "errno",
            "fcntl",
            "functools",
            "gc",
            "genericpath",
        ),
        *(
            "heapq",
            "io",
            "itertools",
            "marshal",
            "os",
            "os.path",
            "posix",
            "posixpath",
            "resource",
            "select",
        ),
        *("select", "stat", "struct", "sys", "termios", "time", "types", "zipimport"),
    }
    assert outside <= allowed, f"not allowed: {sorted(outside - allowed)}"
    assert not names & {"_hashlib", "_ssl", "agent.protocol.codec"}
