"""Two web processes of one control plane: a client's socket lands on the one that does not hold the node's link."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests import servers
from tests.e2e import images
from tests.e2e.fleet import CONTROL, ROOT, ControlPlane, Fabric, Host, wait_for
from tests.e2e.test_fleet import line, read_stream

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
]

PORT, NODE_PORT = 8453, 8454


class SecondWeb:
    """One more web process on the same database and the same hints, with ports of its own."""

    def __init__(self, control: ControlPlane) -> None:
        self.log = control.home / "web2.log"
        environment = {**control.environment, "WHARF_PORT": str(PORT), "WHARF_NODE_PORT": str(NODE_PORT)}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controlplane.server"], env=environment, cwd=ROOT, stdout=out, stderr=out
            )
        wait_for(self.answers, "the second web process", 90)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"https://{CONTROL}:{PORT}/healthz", verify=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @contextlib.contextmanager
    def stream(self, control: ControlPlane, request: dict[str, Any]) -> Iterator[Any]:
        """The ticket is had from the first process, and redeemed at this one: nothing but rows joins the two."""
        ticket = control.call("POST", "streams", json=request)["ticket"]
        with line(f"wss://{CONTROL}:{PORT}/ws/stream", origin=f"https://{CONTROL}:{PORT}") as socket:
            socket.send(json.dumps({"ticket": ticket}))
            yield socket

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Host, SecondWeb]]:
    """On PostgreSQL: a control plane, one node linked to its first web process, and a second web process."""
    fabric = Fabric()
    with servers.postgresql() as database, contextlib.ExitStack() as stack:
        sockets = Path(parse_qs(urlsplit(database).query)["host"][0])
        sockets.chmod(0o755)  # web and worker run as a user of their own
        control = ControlPlane()
        control.environment["WHARF_DATABASE_URL"] = database
        stack.callback(fabric.close)
        stack.callback(control.close)
        control.start()
        host = fabric.host("n1")
        host.power_on()
        control.join(host)
        control.push(images.web(tmp_path_factory.mktemp("image") / "web"), "admin/web:1")
        control.create("web", "admin/web:1", replicas=1)
        wait_for(lambda: control.whole("web", 1), "a running task", 90)
        second = SecondWeb(control)
        stack.callback(second.close)
        yield control, host, second


def container(control: ControlPlane) -> str:
    rows = wait_for(lambda: [row for row in control.call("GET", "containers") if row["state"] == "running"], "a container", 60)
    return str(rows[0]["container_id"])


def test_exec_passes_through_both_with_input_size_and_code(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    control, _, second = world
    script = "read line; echo got $line; stty size; exit 7"
    args = {"command": ["sh", "-c", script], "tty": True, "stdin": True, "rows": 33, "cols": 101}
    with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
        _, opened = read_stream(socket, until="opened")
        assert opened["info"]["pid"] > 0
        socket.send(json.dumps({"type": "resize", "rows": 40, "cols": 120}))
        socket.send(b"\0\0hello\n")
        data, end = read_stream(socket)
    assert b"got hello" in data
    assert b"40 120" in data
    assert end["code"] == 7


def test_megabytes_go_through_whole_both_ways(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    """More than every window and buffer on the way, so that each must be given back."""
    control, _, second = world
    args = {"command": ["sh", "-c", "cat"], "stdin": True}
    sent = bytes(range(256)) * 128
    with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
        read_stream(socket, until="opened")
        received = b""
        for _ in range(64):
            socket.send(b"\0\0" + sent)
            while len(received) < len(sent):
                received += socket.recv(timeout=30)[2:]
            assert received == sent
            received = b""
        socket.send(json.dumps({"type": "eof"}))
        _, end = read_stream(socket)
    assert end["code"] == 0


def test_logs_of_a_service_and_a_refusal_of_the_node(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    control, host, second = world
    address = next(iter(control.running("web")))["addresses"][0]
    host.run("busybox", "wget", "-q", "-O", "/dev/null", f"http://{address}/")
    service = control.service("web")["id"]

    def logged() -> bool:
        with second.stream(control, {"target": "logs", "service": service, "args": {}}) as socket:
            return b"response:200" in read_stream(socket)[0]

    wait_for(logged, "the request in the log", 20)
    args = {"command": ["/no/such/program"]}
    with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
        message = json.loads(socket.recv(timeout=30))
    assert (message["type"], message["code"]) == ("error", "exec_failed")


def test_a_client_that_leaves_leaves_nothing_behind(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    """The stream ends on the node too: a follower of the log does not follow for ever."""
    control, host, second = world
    row = container(control)

    def watchers() -> int:
        pid = host.pids("-m agent ")[0]
        return sum("inotify" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))

    before = watchers()
    with second.stream(control, {"target": "logs", "container": row, "args": {"follow": True}}) as socket:
        read_stream(socket, until="opened")
        wait_for(lambda: watchers() == before + 1, "the log is followed", 20)
    wait_for(lambda: watchers() == before, "nobody follows it", 20)


def test_the_death_of_the_process_that_holds_the_link_is_no_clean_end(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    control, _, second = world
    args = {"command": ["sleep", "1000"]}
    with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
        read_stream(socket, until="opened")
        for pid in control.pids("controlplane.server"):
            os.kill(pid, signal.SIGKILL)
        message = json.loads(socket.recv(timeout=30))
        assert (message["type"], message["code"]) == ("error", "stream_lost")
    wait_for(control.healthy, "the launcher's new web process", 60)
    wait_for(lambda: control.node("n1")["state"] == "ready", "the node is back", 60)
    args = {"command": ["echo", "again"]}

    def works() -> bool:
        with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
            first = json.loads(socket.recv(timeout=30))
            return first["type"] == "opened" and b"again" in read_stream(socket)[0]

    wait_for(works, "streams through the new process", 30)


def test_an_agent_that_is_asked_to_end_does_so_with_a_stream_open(world: tuple[ControlPlane, Host, SecondWeb]) -> None:
    control, host, second = world
    args = {"command": ["sh", "-c", "while true; do echo tick; sleep 0.1; done"]}
    with second.stream(control, {"target": "exec", "container": container(control), "args": args}) as socket:
        read_stream(socket, until="opened")
        assert host.agent is not None
        for pid in host.pids("-m agent "):
            os.kill(pid, signal.SIGTERM)
        host.agent.wait(10)
        data = b""
        while True:  # output until the loss is told
            frame = socket.recv(timeout=30)
            if isinstance(frame, str):
                break
            data += frame
        message = json.loads(frame)
    assert (message["type"], message["code"]) == ("error", "stream_lost")
    ending = host.log().rpartition("stopping; containers run on")[2]
    assert "Traceback" not in ending
    assert "Task was destroyed" not in ending
    host.start_agent()
    wait_for(lambda: control.node("n1")["state"] == "ready", "the node is back", 60)
    assert control.whole("web", 1)
