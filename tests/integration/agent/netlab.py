"""A small laboratory of network namespaces: one is the node, others are its peers. The machine's own stack is not touched.

A `Space` runs functions in its namespace (a thread that lives there); sockets that they open stay there, so servers and
clients of any namespace can be driven from the test.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.network.manager import Networks
from agent.protocol.spec import NetworkMode
from agent.sys import netns

T = TypeVar("T")
TIMEOUT = 5.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables")


class Space:
    """A network namespace and a thread inside it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = str(path)
        if create:
            netns.create(self.path, lambda: None)
        self._fd = os.open(self.path, os.O_RDONLY)
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: netns.inside(self._fd, self._work), daemon=True)
        self._thread.start()
        if create:
            self.ip("link", "set", "lo", "up")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def run(self, work: Callable[[], T]) -> T:
        done: queue.Queue[tuple[bool, Any]] = queue.Queue()

        def job() -> None:
            try:
                done.put((True, work()))
            except BaseException as error:  # noqa: BLE001  # raised again in the test
                done.put((False, error))

        self._jobs.put(job)
        fine, result = done.get(timeout=60)
        if not fine:
            raise result
        answer: T = result
        return answer

    def command(self, *argv: str) -> str:
        result = subprocess.run(["nsenter", f"--net={self.path}", *argv], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{argv}: {result.stderr}"
        return result.stdout

    def ip(self, *argv: str) -> str:
        return self.command("ip", *argv)

    def nft(self, *argv: str) -> str:
        return self.command("nft", *argv)

    def close(self, *, keep: bool = False) -> None:
        self._jobs.put(None)
        self._thread.join(10)
        os.close(self._fd)
        if not keep:
            netns.drop(self.path)


class Lab:
    """The node (10.77.0.1 and, beside it, 10.77.0.11), and a peer (10.77.0.2) that routes through it on demand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.node = Space(root / "node")
        self.peer = Space(root / "peer")
        self._servers: list[socket.socket] = []
        self._spaces: list[Space] = []
        self._own = [self.node, self.peer]
        self.node.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.peer.path)
        self.node.ip("addr", "add", "10.77.0.1/24", "dev", "up0")
        self.node.ip("addr", "add", "10.77.0.11/24", "dev", "up0")
        self.node.ip("link", "set", "up0", "up")
        self.peer.ip("addr", "add", "10.77.0.2/24", "dev", "eth0")
        self.peer.ip("link", "set", "eth0", "up")
        self.node.command("sysctl", "-qw", "net.ipv4.ip_forward=0")
        self.managers: list[Networks] = []

    def manager(self, **options: Any) -> Networks:
        made = self.node.run(lambda: Networks(str(self.root / "state"), str(self.root / "run"), **options))
        self.managers.append(made)
        return made

    def on_node(self, work: Callable[[], T]) -> T:
        return self.node.run(work)

    def space(self, name: str) -> Space:
        """One more namespace, without a link yet."""
        made = Space(self.root / name)
        self._own.append(made)
        return made

    def inside(self, path: str) -> Space:
        space = Space(Path(path), create=False)
        self._spaces.append(space)
        return space

    def leave(self, space: Space) -> None:
        """Let go of a container's namespace, as its last process would."""
        self._spaces.remove(space)
        space.close(keep=True)

    def serve(self, space: Space, address: str, port: int, *, udp: bool = False, name: str = "") -> None:
        """An echo server: answers "NAME CLIENT-ADDRESS DATA"."""
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM

        def bind() -> socket.socket:
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if not udp:
                sock.listen(16)
            return sock

        sock = space.run(bind)
        self._servers.append(sock)
        threading.Thread(target=_echo_udp if udp else _echo_tcp, args=(sock, name), daemon=True).start()

    def close(self) -> None:
        """Every step is taken, whatever the ones before it raise."""
        with contextlib.ExitStack() as steps:
            for space in self._own:
                steps.callback(space.close)
            if self.managers:
                steps.callback(self.on_node, self.managers[-1].teardown)
            for manager in self.managers:
                steps.callback(self.on_node, manager.close)
            for space in list(self._spaces):
                steps.callback(self.leave, space)
            for sock in self._servers:
                steps.callback(_hang_up, sock)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _echo_tcp(sock: socket.socket, name: str) -> None:
    while True:
        try:
            connection, peer = sock.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(TIMEOUT)
            connection.sendall(f"{name} {peer[0]} ".encode() + connection.recv(1000))


def _echo_udp(sock: socket.socket, name: str) -> None:
    while True:
        try:
            data, peer = sock.recvfrom(1000)
            if not peer:  # shut down
                return
            sock.sendto(f"{name} {peer[0]} ".encode() + data, peer)
        except OSError:
            return


def ask(space: Space, address: str, port: int, *, udp: bool = False, source: str = "", timeout: float = TIMEOUT) -> str:
    """Send "hello" and return the answer. OSError when none comes."""

    def work() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            sock.sendall(b"hello")
            return sock.recv(1000).decode()

    return space.run(work)


def refused(space: Space, address: str, port: int, **options: Any) -> bool:
    """Whether nothing answers within half a second."""
    try:
        ask(space, address, port, timeout=0.5, **options)
    except OSError:
        return True
    return False


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def mounts_under(path: Path) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line.split()[4] for line in file if line.split()[4].startswith(str(path))]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()
    assert mounts_under(tmp_path) == [], "a mount was left behind"


def container(
    lab: Lab, manager: Networks, container_id: str, *specs: Any, ports: tuple[Any, ...] = (), **options: Any
) -> tuple[Space, Any]:
    """Make, attach and enter a sandbox."""
    path = lab.on_node(lambda: manager.sandbox(container_id, NetworkMode.BRIDGE, **options))
    assert path is not None
    attached = lab.on_node(lambda: manager.attach(container_id, specs, ports))
    return lab.inside(path), attached
