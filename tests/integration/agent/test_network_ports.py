"""Published ports, driven by real clients and servers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Sequence

import pytest

from agent.network.attach import AttachSpec
from agent.network.errors import InvalidNetwork, NetworkFailed, PortInUse
from agent.protocol.spec import NetworkSpec, PortSpec, Protocol
from agent.sys import netns, nftables
from agent.sys.netlink import Message, NetlinkError
from agent.sys.nfnetlink import NftSocket
from tests.integration.agent.netlab import Lab, ask, container, lab, needs_root, refused

__all__ = ["lab"]
pytestmark = needs_root


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_port_is_reachable_from_everywhere(lab: Lab, udp: bool) -> None:
    manager = lab.manager()
    protocol = Protocol.UDP if udp else Protocol.TCP
    inside, attached = container(lab, manager, "c1", ports=(PortSpec(80, 8080, protocol),))
    other, _ = container(lab, manager, "c2")
    lab.on_node(lambda: manager.create(NetworkSpec("blue")))
    stranger, _ = container(lab, manager, "c3", AttachSpec("blue"))
    lab.serve(inside, "0.0.0.0", 80, udp=udp, name="c1")
    assert ask(lab.peer, "10.77.0.1", 8080, udp=udp) == "c1 10.77.0.2 hello", "from a peer, with the peer's address"
    assert ask(lab.peer, "10.77.0.11", 8080, udp=udp).startswith("c1 "), "on every address of the node"
    assert ask(lab.node, "10.77.0.1", 8080, udp=udp).startswith("c1 "), "from the node by its own address"
    assert ask(lab.node, "127.0.0.1", 8080, udp=udp) == "c1 172.17.0.1 hello", "from the node's loopback"
    assert ask(inside, "10.77.0.1", 8080, udp=udp).startswith("c1 "), "hairpin: from the very container"
    assert ask(inside, "172.17.0.1", 8080, udp=udp).startswith("c1 "), "hairpin through the gateway"
    assert ask(other, "10.77.0.1", 8080, udp=udp).startswith("c1 "), "from a neighbour on the bridge"
    assert ask(stranger, "10.77.0.1", 8080, udp=udp).startswith("c1 "), "from another network, as it is published"
    assert ask(other, attached.address, 80, udp=udp).startswith("c1 ")


def test_hairpin_without_bridge_netfilter(lab: Lab) -> None:
    lab.node.command("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1", ports=(PortSpec(80, 8080),))
    other, _ = container(lab, manager, "c2")
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    assert ask(inside, "10.77.0.1", 8080).startswith("c1 ")
    assert ask(other, "10.77.0.1", 8080).startswith("c1 ")


def test_host_ip_is_respected(lab: Lab) -> None:
    manager = lab.manager()
    ports = (PortSpec(80, 8080, host_ip="10.77.0.11"), PortSpec(80, 8081, host_ip="127.0.0.1"))
    inside, _ = container(lab, manager, "c1", ports=ports)
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    assert ask(lab.peer, "10.77.0.11", 8080).startswith("c1 ")
    assert refused(lab.peer, "10.77.0.1", 8080)
    assert ask(lab.node, "127.0.0.1", 8081).startswith("c1 ")
    assert refused(lab.peer, "10.77.0.1", 8081)
    lab.peer.ip("route", "add", "127.0.0.2/32", "via", "10.77.0.1")
    with pytest.raises(InvalidNetwork, match=r"10\.99\.0\.1 is not an address"):
        container(lab, manager, "c2", ports=(PortSpec(80, 8080, host_ip="10.99.0.1"),))


def test_the_nodes_loopback_stays_its_own(lab: Lab) -> None:
    """CVE-2020-8558: with route_localnet a container or neighbour could address 127.0.0.1 of the node over the bridge."""
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1")
    lab.serve(lab.node, "127.0.0.1", 6000, name="secret")
    assert ask(lab.node, "127.0.0.1", 6000).startswith("secret ")
    for space, gateway in ((inside, "172.17.0.1"), (lab.peer, "10.77.0.1")):
        space.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
        space.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
        space.ip("route", "add", "127.0.0.0/8", "via", gateway)
        assert refused(space, "127.0.0.1", 6000)


def test_protected_ports_of_the_node(lab: Lab) -> None:
    manager = lab.manager(protect_ports=[7001])
    inside, _ = container(lab, manager, "c1")
    for port in (7000, 7001):
        lab.serve(lab.node, "0.0.0.0", port, name="node")
    assert ask(inside, "172.17.0.1", 7000).startswith("node ")
    for address in ("172.17.0.1", "10.77.0.1"):
        assert refused(inside, address, 7001)
    assert ask(lab.peer, "10.77.0.1", 7001).startswith("node "), "only containers are kept out"


def test_a_port_of_a_host_process_is_refused_with_its_name(lab: Lab) -> None:
    manager = lab.manager()
    lab.serve(lab.node, "0.0.0.0", 8080, name="node")
    with pytest.raises(PortInUse, match=r"8080/tcp is in use by process .*\(pid \d+\)") as refusal:
        container(lab, manager, "c1", ports=(PortSpec(80, 8080),))
    assert refusal.value.code == "port_in_use"
    assert refusal.value.extra["port"] == 8080
    assert lab.on_node(lambda: manager.inspect("c1")).ports == ()


def test_a_port_of_another_container_is_refused_with_its_id(lab: Lab) -> None:
    manager = lab.manager()
    container(lab, manager, "c1", ports=(PortSpec(80, 8080),))
    with pytest.raises(PortInUse, match="in use by container c1") as refusal:
        container(lab, manager, "c2", ports=(PortSpec(81, 8081), PortSpec(80, 8080, host_ip="127.0.0.1")))
    assert refusal.value.extra["holder"] == "c1"
    container(lab, manager, "c3", ports=(PortSpec(81, 8081), PortSpec(80, 8080, Protocol.UDP)))


def test_a_host_process_cannot_take_a_published_port(lab: Lab) -> None:
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1", ports=(PortSpec(80, 8080),))

    def listen() -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", 8080))
            sock.listen()

    with pytest.raises(OSError, match="in use"):
        lab.on_node(listen)
    lab.leave(inside)
    lab.on_node(lambda: manager.detach("c1"))
    lab.on_node(listen)


def test_a_port_with_connections_in_time_wait_can_be_published(lab: Lab) -> None:
    def leave_time_wait() -> None:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", 8080))
            server.listen()
            with socket.create_connection(("127.0.0.1", 8080)) as client:
                accepted, _ = server.accept()
                accepted.close()  # the server closes first, so TIME_WAIT is on its port
                assert client.recv(1) == b""

    lab.on_node(leave_time_wait)
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1", ports=(PortSpec(80, 8080),))
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")


def test_dynamic_ports(lab: Lab) -> None:
    manager = lab.manager()
    lab.serve(lab.node, "0.0.0.0", 32769, name="node")
    inside, attached = container(lab, manager, "c1", ports=(PortSpec(80), PortSpec(81), PortSpec(80, protocol=Protocol.UDP)))
    assert [port.host_port for port in attached.ports] == [32768, 32770, 32771]
    lab.serve(inside, "0.0.0.0", 81, name="c1")
    assert ask(lab.peer, "10.77.0.1", 32770).startswith("c1 ")


def test_detach_withdraws_ports_and_forgets_udp_flows(lab: Lab) -> None:
    manager = lab.manager()
    spec = (PortSpec(53, 5353, Protocol.UDP),)
    first, _ = container(lab, manager, "c1", ports=spec)
    lab.serve(first, "0.0.0.0", 53, udp=True, name="first")

    def client() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect(("10.77.0.1", 5353))
        return sock

    with lab.peer.run(client) as sock:
        sock.send(b"a")
        assert sock.recv(100).startswith(b"first ")
        lab.leave(first)
        lab.on_node(lambda: manager.detach("c1"))
        assert "5353" not in lab.node.nft("list", "map", "ip", "wharf", "ports")
        second, _ = container(lab, manager, "c2", ports=spec)
        lab.serve(second, "0.0.0.0", 53, udp=True, name="second")
        sock.send(b"b")  # the same flow: without forgetting, it would still be sent to the dead container
        assert sock.recv(100).startswith(b"second ")


def test_ports_move_with_a_disconnect(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("blue")))
    inside, _ = container(lab, manager, "c1", AttachSpec("bridge"), AttachSpec("blue"), ports=(PortSpec(80, 8080),))
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")
    lab.on_node(lambda: manager.disconnect("c1", "bridge"))
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")
    lab.on_node(lambda: manager.disconnect("c1", "blue"))
    assert refused(lab.peer, "10.77.0.1", 8080)


def test_internal_networks_publish_nothing(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("vault", internal=True)))
    with pytest.raises(InvalidNetwork, match="internal"):
        container(lab, manager, "c1", AttachSpec("vault"), ports=(PortSpec(80, 8080),))


@pytest.mark.parametrize(
    "wreck", ["flush ruleset", "delete table ip wharf", "flush chain ip wharf leaving", "flush map ip wharf ports"]
)
def test_ports_heal_after_somebody_flushed_the_ruleset(lab: Lab, wreck: str) -> None:
    manager = lab.manager()
    first, _ = container(lab, manager, "c1", ports=(PortSpec(80, 8080),))
    lab.serve(first, "0.0.0.0", 80, name="first")
    assert lab.on_node(manager.intact)
    lab.node.nft(*wreck.split())
    assert not lab.on_node(manager.intact)
    container(lab, manager, "c2", ports=(PortSpec(80, 8081),))
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("first ")
    assert lab.on_node(manager.intact)


def test_spoofed_sources_are_dropped(lab: Lab) -> None:
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1")
    lab.serve(lab.node, "172.17.0.1", 7000, udp=True, name="node")
    inside.ip("addr", "add", "10.66.6.6/32", "dev", "lo")
    lab.node.nft("insert", "rule", "ip", "wharf", "input", "ip", "saddr", "10.66.6.6", "counter", "comment", "seen")
    assert refused(inside, "172.17.0.1", 7000, udp=True, source="10.66.6.6")
    assert "counter packets 0" in lab.node.nft("list", "ruleset")
    assert ask(inside, "172.17.0.1", 7000, udp=True).startswith("node ")


def test_publishing_beside_a_program_that_changes_the_ruleset_all_the_time(lab: Lab) -> None:
    """Each of its commits makes our generation stale between reading and writing: ours is done again until it fits."""
    manager = lab.manager()
    container(lab, manager, "c0")
    stop = threading.Event()
    rounds = 0

    def disturb() -> None:
        nonlocal rounds
        with NftSocket() as sock:
            while not stop.is_set():
                try:
                    sock.transaction([nftables.table(2, "other"), nftables.del_table(2, "other")], sock.generation())
                    rounds += 1
                except NetlinkError:
                    continue  # ours came between

    fd = os.open(lab.node.path, os.O_RDONLY)
    thread = threading.Thread(target=lambda: netns.inside(fd, disturb))
    thread.start()
    try:
        for number in range(30):
            container(lab, manager, f"d{number}", ports=(PortSpec(80, 9000 + number),))
    finally:
        stop.set()
        thread.join()
        os.close(fd)
    assert rounds > 0
    assert lab.node.nft("list", "map", "ip", "wharf", "ports").count("tcp .") == 30


def test_a_ruleset_that_never_rests_is_written_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No generation is ever current: the table is replaced as a whole, which takes nothing for granted."""
    manager = lab.manager()
    container(lab, manager, "c1")
    stale = NftSocket.generation
    monkeypatch.setattr(NftSocket, "generation", lambda sock: stale(sock) - 1)
    container(lab, manager, "c2", ports=(PortSpec(80, 8080),))
    container(lab, manager, "c3", ports=(PortSpec(80, 8081),))
    lab.on_node(lambda: manager.detach("c2"))
    monkeypatch.undo()
    rules = lab.node.nft("list", "ruleset")
    assert ("8080" in rules, "8081" in rules) == (False, True)
    assert lab.on_node(manager.intact)


def test_a_kernel_that_puts_us_off_for_ever_is_an_error_that_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = lab.manager()
    container(lab, manager, "c1")

    def busy(sock: NftSocket, messages: Sequence[Message], generation: int | None) -> None:
        raise NetlinkError(errno.ENOBUFS, "no room", -1)

    monkeypatch.setattr(NftSocket, "transaction", busy)
    with pytest.raises(NetworkFailed, match="put off our packet filter"):
        container(lab, manager, "c2", ports=(PortSpec(80, 8080),))
    monkeypatch.undo()
    assert "8080" not in lab.node.nft("list", "ruleset")
    lab.on_node(lambda: manager.attach("c2", ports=(PortSpec(80, 8080),)))
    assert "8080" in lab.node.nft("list", "ruleset")
