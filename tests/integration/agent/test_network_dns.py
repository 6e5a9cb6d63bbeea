"""Names on user networks, asked by real resolvers from inside the containers."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.network.attach import AttachSpec
from agent.network.manager import Networks
from agent.protocol.spec import NetworkSpec
from tests.integration.agent.netlab import TIMEOUT, Lab, Space, container, lab, needs_root

__all__ = ["lab"]
pytestmark = needs_root


def query(name: str, kind: int = 1, number: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def addresses(answer: bytes, question: bytes) -> list[str]:
    """The addresses of an answer whose records point to the question's name."""
    assert answer[:2] == question[:2]
    count = struct.unpack_from(">H", answer, 6)[0]
    found, offset = [], len(question)
    for _ in range(count):
        size = struct.unpack_from(">H", answer, offset + 10)[0]
        found.append(socket.inet_ntoa(answer[offset + 12 : offset + 12 + size]))
        offset += 12 + size
    return sorted(found)


def code(answer: bytes) -> int:
    return answer[3] & 15


def ask(space: Space, data: bytes, *, tcp: bool = False, timeout: float = TIMEOUT) -> bytes:
    def work() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect(("127.0.0.11", 53))
            sock.sendall(struct.pack(">H", len(data)) + data if tcp else data)
            answer = sock.recv(65535)
            return answer[2:] if tcp else answer

    return space.run(work)


class Upstream:
    """A name server of the peer: knows every name as 192.0.2.1, by UDP and TCP, and remembers what it was asked."""

    def __init__(self, space: Space, address: str) -> None:
        self.asked: list[bytes] = []
        self.udp = space.run(lambda: self._bind(address, socket.SOCK_DGRAM))
        self.tcp = space.run(lambda: self._bind(address, socket.SOCK_STREAM))
        self.tcp.listen()
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    def _bind(self, address: str, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((address, 53))
        return sock

    def _answer(self, data: bytes) -> bytes:
        self.asked.append(data)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("192.0.2.1")
        return data[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0) + data[12:] + record

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            if not peer:
                return
            self.udp.sendto(self._answer(data), peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(4096)
                answer = self._answer(data[2:])
                connection.sendall(struct.pack(">H", len(answer)) + answer)

    def close(self) -> None:
        for sock in (self.udp, self.tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # a UDP socket without a peer says so, and wakes its reader all the same
            sock.close()


@pytest.fixture
def upstream(lab: Lab) -> Iterator[Upstream]:
    made = Upstream(lab.peer, "10.77.0.2")
    yield made
    made.close()


@pytest.fixture
def manager(lab: Lab, upstream: Upstream) -> Networks:
    made = lab.manager(upstream=lambda: ("10.77.0.99", "10.77.0.2"))
    lab.on_node(lambda: made.create(NetworkSpec("blue")))
    lab.on_node(lambda: made.create(NetworkSpec("green")))
    return made


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_containers_find_each_other_by_name(lab: Lab, manager: Networks, tcp: bool) -> None:
    web, _ = container(lab, manager, "a" * 64, AttachSpec("blue"), name="web")
    _, db = container(lab, manager, "b" * 64, AttachSpec("blue", aliases=("store",)), name="db")
    for name in ("db", "DB", "store", "b" * 12, "db.blue"):
        question = query(name)
        assert addresses(ask(web, question, tcp=tcp), question) == [db.address], name
    answer = ask(web, query("db", kind=28), tcp=tcp)
    assert (code(answer), addresses(answer, query("db", kind=28))) == (0, []), "no IPv6 address, and no need to ask others"


def test_an_alias_of_several_gives_all(lab: Lab, manager: Networks) -> None:
    web, one = container(lab, manager, "c1", AttachSpec("blue", aliases=("shop",)))
    _, two = container(lab, manager, "c2", AttachSpec("blue", aliases=("shop",)))
    assert addresses(ask(web, query("shop")), query("shop")) == sorted([one.address, two.address])


def test_a_container_that_leaves_is_forgotten(lab: Lab, manager: Networks) -> None:
    web, _ = container(lab, manager, "c1", AttachSpec("blue"))
    container(lab, manager, "c2", AttachSpec("blue"), name="db")
    lab.on_node(lambda: manager.disconnect("c2", "blue"))
    assert addresses(ask(web, query("db")), query("db")) == ["192.0.2.1"], "upstream's answer"


def test_other_networks_names_are_not_told(lab: Lab, manager: Networks, upstream: Upstream) -> None:
    web, _ = container(lab, manager, "c1", AttachSpec("blue"))
    container(lab, manager, "c2", AttachSpec("green"), name="secret")
    container(lab, manager, "c3", name="plain")
    for name in ("secret", "plain", "secret.green"):
        assert addresses(ask(web, query(name)), query(name)) == ["192.0.2.1"], "as if it did not exist: forwarded"


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_other_names_are_forwarded_past_a_dead_server(lab: Lab, manager: Networks, upstream: Upstream, tcp: bool) -> None:
    web, _ = container(lab, manager, "c1", AttachSpec("blue"))
    question = query("example.org")
    assert addresses(ask(web, question, tcp=tcp, timeout=20), question) == ["192.0.2.1"]
    assert upstream.asked[-1][2:] == question[2:]


def test_nobody_answers(lab: Lab, manager: Networks) -> None:
    deaf = lab.manager(upstream=lambda: ("10.77.0.99",))
    web, _ = container(lab, deaf, "c9", AttachSpec("blue"))
    assert code(ask(web, query("example.org"), timeout=20)) == 2


def test_internal_networks_do_not_leak_by_dns(lab: Lab, manager: Networks, upstream: Upstream) -> None:
    lab.on_node(lambda: manager.create(NetworkSpec("vault", internal=True)))
    one, _ = container(lab, manager, "c1", AttachSpec("vault"))
    _, two = container(lab, manager, "c2", AttachSpec("vault"), name="two")
    assert addresses(ask(one, query("two")), query("two")) == [two.endpoints[0].address]
    assert code(ask(one, query("data.leaks.example"))) == 2
    assert upstream.asked == []


def test_a_container_may_run_a_name_server_of_its_own(lab: Lab, manager: Networks) -> None:
    inside, _ = container(lab, manager, "c1", AttachSpec("blue"), name="me")
    lab.serve(inside, "0.0.0.0", 53, name="own")
    lab.serve(inside, "0.0.0.0", 53, udp=True, name="own")
    assert addresses(ask(inside, query("me")), query("me")) != []


def test_names_after_a_restart_of_the_agent(lab: Lab, manager: Networks) -> None:
    inside, attached = container(lab, manager, "c1", AttachSpec("blue"), name="me")
    lab.on_node(manager.close)
    second = lab.manager()
    assert lab.on_node(lambda: second.sync({"c1"})).broken == ()
    assert addresses(ask(inside, query("me")), query("me")) == [attached.address]
    assert inside.nft("list", "ruleset").count("resolver of the node") == 2


def test_reverse_names(lab: Lab, manager: Networks) -> None:
    inside, _ = container(lab, manager, "c1", AttachSpec("blue"))
    _, db = container(lab, manager, "c2", AttachSpec("blue"), name="db")
    answer = ask(inside, query(".".join(reversed(db.address.split("."))) + ".in-addr.arpa", kind=12))
    assert b"\x02db\x04blue\x00" in answer


@pytest.mark.parametrize("junk", [b"", b"x", b"\0" * 12, query("a")[:-3], query("a")[:12] + b"\xc0\x0c\0\1\0\1", b"\xff" * 600])
def test_junk_is_survived(lab: Lab, manager: Networks, junk: bytes) -> None:
    inside, attached = container(lab, manager, "c1", AttachSpec("blue"), name="me")
    with pytest.raises(OSError, match="timed out"):
        ask(inside, junk, timeout=0.1)
    assert addresses(ask(inside, query("me")), query("me")) == [attached.address]


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox: its nslookup is the oracle")
def test_nslookup_agrees(lab: Lab, manager: Networks) -> None:
    inside, _ = container(lab, manager, "c1", AttachSpec("blue"))
    _, db = container(lab, manager, "c2", AttachSpec("blue"), name="db")
    assert db.address in inside.command("busybox", "nslookup", "db", "127.0.0.11")


def test_a_libc_resolver_with_our_resolv_conf(lab: Lab, manager: Networks, tmp_path: Path) -> None:
    inside, _ = container(lab, manager, "c1", AttachSpec("blue"))
    _, db = container(lab, manager, "c2", AttachSpec("blue"), name="db")
    (tmp_path / "resolv.conf").write_text(manager.resolver(["blue"]).text())
    script = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && getent ahostsv4 db"
    argv = ["nsenter", f"--net={inside.path}", "unshare", "--mount", "sh", "-c", script]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert result.stdout.split()[0] == db.address
