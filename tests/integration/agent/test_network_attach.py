"""Sandboxes on bridges, in real namespaces."""

from __future__ import annotations

import json
import os
import select
import socket
from pathlib import Path

import pytest

from agent.network.attach import AttachSpec
from agent.network.errors import AlreadyAttached, InvalidNetwork, NetworkInUse, NetworkNotFound, SubnetTaken
from agent.protocol.spec import NetworkMode, NetworkSpec
from tests.integration.agent.netlab import Lab, ask, container, eventually, lab, mounts_under, needs_root, refused

__all__ = ["lab"]
pytestmark = needs_root


def link_names(space: object) -> set[str]:
    return {link["ifname"] for link in json.loads(space.ip("-j", "link"))}  # type: ignore[attr-defined]  # a Space


def test_a_container_gets_address_route_and_loopback(lab: Lab) -> None:
    manager = lab.manager()
    inside, attached = container(lab, manager, "c1")
    assert attached.address == "172.17.0.2"
    assert attached.gateway == "172.17.0.1"
    addresses = json.loads(inside.ip("-j", "addr"))
    by_name = {link["ifname"]: link for link in addresses}
    eth0 = by_name["eth0"]
    assert "UP" in eth0["flags"]
    assert eth0["address"] == attached.mac == "02:42:ac:11:00:02"
    assert [(a["local"], a["prefixlen"], a.get("broadcast")) for a in eth0["addr_info"]] == [("172.17.0.2", 16, "172.17.255.255")]
    assert "UP" in by_name["lo"]["flags"]
    routes = json.loads(inside.ip("-j", "route"))
    assert {"dst": "default", "gateway": "172.17.0.1", "dev": "eth0", "flags": []} in routes
    lab.serve(lab.node, "172.17.0.1", 7000, name="node")
    assert ask(inside, "172.17.0.1", 7000) == "node 172.17.0.2 hello"


def test_two_containers_of_a_network_talk_and_two_networks_do_not(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("blue")))
    lab.on_node(lambda: manager.create(NetworkSpec("green")))
    one, _ = container(lab, manager, "c1", AttachSpec("blue"))
    two, at_two = container(lab, manager, "c2", AttachSpec("blue"))
    three, at_three = container(lab, manager, "c3", AttachSpec("green"))
    lab.serve(two, "0.0.0.0", 80, name="two")
    lab.serve(three, "0.0.0.0", 80, name="three")
    assert ask(one, at_two.address, 80).startswith("two ")
    assert refused(one, at_three.address, 80)
    assert ask(three, "127.0.0.1", 80).startswith("three "), "the server itself works"


def test_egress_is_masqueraded_and_peers_cannot_route_in(lab: Lab) -> None:
    manager = lab.manager()
    inside, attached = container(lab, manager, "c1")
    lab.serve(lab.peer, "10.77.0.2", 9000, name="peer")
    lab.serve(inside, "0.0.0.0", 80, name="inside")
    assert ask(inside, "10.77.0.2", 9000) == "peer 10.77.0.1 hello"
    lab.peer.ip("route", "add", "172.17.0.0/16", "via", "10.77.0.1")
    assert refused(lab.peer, attached.address, 80)
    assert ask(lab.node, attached.address, 80).startswith("inside "), "the node itself may"


def test_peers_cannot_route_in_through_a_node_that_routes_for_others(lab: Lab) -> None:
    lab.node.command("sysctl", "-qw", "net.ipv4.ip_forward=1")
    manager = lab.manager()
    inside, attached = container(lab, manager, "c1")
    lab.serve(inside, "0.0.0.0", 80, name="inside")
    lab.peer.ip("route", "add", "172.17.0.0/16", "via", "10.77.0.1")
    assert refused(lab.peer, attached.address, 80)


@pytest.mark.parametrize("router", [False, True], ids=["was no router", "was a router"])
def test_the_node_routes_for_others_only_if_it_did_before(lab: Lab, router: bool) -> None:
    far = lab.space("far")
    lab.node.ip("link", "add", "up1", "type", "veth", "peer", "name", "eth0", "netns", far.path)
    lab.node.ip("addr", "add", "10.78.0.1/24", "dev", "up1")
    lab.node.ip("link", "set", "up1", "up")
    far.ip("addr", "add", "10.78.0.2/24", "dev", "eth0")
    far.ip("link", "set", "eth0", "up")
    far.ip("route", "add", "default", "via", "10.78.0.1")
    lab.peer.ip("route", "add", "default", "via", "10.77.0.1")
    lab.serve(far, "0.0.0.0", 9000, name="far")
    if router:
        lab.node.command("sysctl", "-qw", "net.ipv4.ip_forward=1")
    manager = lab.manager()
    container(lab, manager, "c1")
    assert lab.node.command("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert refused(lab.peer, "10.78.0.2", 9000) is not router


def test_nothing_leaves_an_internal_network_even_unanswered(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("vault", internal=True)))
    inside, attached = container(lab, manager, "c1", AttachSpec("vault"))
    inside.ip("route", "add", "default", "via", attached.endpoints[0].gateway)

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.77.0.2", 9000))
        sock.settimeout(0.5)
        return sock

    def leak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"data", ("10.77.0.2", 9000))

    with lab.peer.run(listen) as sock:
        inside.run(leak)
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_the_node_reaches_an_internal_network_and_pings_answer(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("vault", internal=True)))
    inside, attached = container(lab, manager, "c1", AttachSpec("vault"))
    lab.serve(inside, "0.0.0.0", 80, name="inside")
    assert ask(lab.node, attached.address, 80).startswith("inside ")
    inside.command("busybox", "ping", "-c1", "-W5", attached.endpoints[0].gateway)


def test_ipv6_is_no_way_around_the_rules(lab: Lab) -> None:
    """Our rules are IPv4's, so a bridge takes no IPv6 at all, whatever address and neighbour a container makes up."""
    manager = lab.manager()
    inside, _ = container(lab, manager, "c1")
    lab.node.ip("addr", "add", "fd00:77::1/64", "dev", "up0", "nodad")
    mac = json.loads(lab.node.ip("-j", "link", "show", "wharf0"))[0]["address"]

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("fd00:77::1", 9000))
        sock.settimeout(0.5)
        return sock

    def intrude() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"data", ("fd00:77::1", 9000))

    inside.ip("addr", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
    inside.ip("neigh", "add", "fd00:77::1", "lladdr", mac, "dev", "eth0")
    with lab.node.run(listen) as sock:
        # the kernel adds the local route of a new address a little later, in a work queue: ask until the server is reached
        def reached() -> bool:
            lab.node.run(intrude)
            return bool(select.select([sock], [], [], 0.05)[0])

        eventually(reached, "the server works")
        while select.select([sock], [], [], 0.05)[0]:
            assert sock.recv(100) == b"data"
        inside.run(intrude)
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_an_internal_network_reaches_nothing_outside(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("vault", internal=True)))
    one, attached = container(lab, manager, "c1", AttachSpec("vault"))
    two, at_two = container(lab, manager, "c2", AttachSpec("vault"))
    lab.serve(lab.peer, "10.77.0.2", 9000, name="peer")
    lab.serve(lab.node, "10.77.0.1", 9001, name="node")
    lab.serve(two, "0.0.0.0", 80, name="two")
    assert attached.gateway == ""
    assert "default" not in one.ip("route")
    one.ip("route", "add", "default", "via", attached.endpoints[0].gateway)  # a container that tries anyway
    assert refused(one, "10.77.0.2", 9000)
    assert refused(one, "10.77.0.1", 9001)
    assert ask(one, at_two.address, 80).startswith("two ")


def test_detach_kills_the_namespace_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    manager = lab.manager()
    inside, attached = container(lab, manager, "c1")
    veth = attached.endpoints[0].veth
    assert veth in link_names(lab.node)
    lab.leave(inside)
    lab.on_node(lambda: manager.detach("c1"))
    assert not os.path.exists(attached.sandbox_path)
    eventually(lambda: veth not in link_names(lab.node), "the veth dies with its namespace")
    assert str(attached.sandbox_path) not in mounts_under(tmp_path)
    lab.on_node(lambda: manager.detach("c1"))  # again: nothing to do
    again, second = container(lab, manager, "c1")
    assert second.address == "172.17.0.3", "an address just freed rests"
    assert again.ip("addr")


def test_none_and_host_modes(lab: Lab) -> None:
    manager = lab.manager()
    assert lab.on_node(lambda: manager.sandbox("h", NetworkMode.HOST)) is None
    path = lab.on_node(lambda: manager.sandbox("n", NetworkMode.NONE))
    assert path is not None
    inside = lab.inside(path)
    lab.serve(inside, "127.0.0.1", 80, name="self")
    assert ask(inside, "127.0.0.1", 80).startswith("self ")
    assert inside.ip("route") == ""
    with pytest.raises(InvalidNetwork):
        lab.on_node(lambda: manager.attach("n"))


def test_connect_and_disconnect_while_running(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("blue", subnet="10.9.0.0/24")))
    inside, first = container(lab, manager, "c1")
    joined = lab.on_node(lambda: manager.connect("c1", AttachSpec("blue", address="10.9.0.77")))
    assert [endpoint.interface for endpoint in joined.endpoints] == ["eth0", "eth1"]
    assert joined.address == first.address, "the default route stays"
    assert "10.9.0.77/24" in inside.ip("addr")
    with pytest.raises(AlreadyAttached):
        lab.on_node(lambda: manager.connect("c1", AttachSpec("blue")))
    with pytest.raises(NetworkInUse, match="c1"):
        lab.on_node(lambda: manager.remove("blue"))
    lab.on_node(lambda: manager.disconnect("c1", "bridge"))
    assert "eth0" not in inside.ip("link")
    assert "default via 10.9.0.1 dev eth1" in inside.ip("route")
    lab.on_node(lambda: manager.disconnect("c1", "blue"))
    lab.on_node(lambda: manager.remove("blue"))
    with pytest.raises(NetworkNotFound):
        lab.on_node(lambda: manager.get("blue"))


def test_mtu_and_own_subnet(lab: Lab) -> None:
    manager = lab.manager()
    network = lab.on_node(lambda: manager.create(NetworkSpec("jumbo", subnet="10.8.0.0/24", gateway="10.8.0.254", mtu=1400)))
    inside, attached = container(lab, manager, "c1", AttachSpec("jumbo"))
    assert attached.gateway == "10.8.0.254"
    assert json.loads(inside.ip("-j", "link", "show", "eth0"))[0]["mtu"] == 1400
    bridge = json.loads(lab.node.ip("-d", "-j", "link", "show", network.bridge))[0]
    assert bridge["mtu"] == 1400
    assert bridge["ifalias"] == "jumbo"
    port = json.loads(lab.node.ip("-d", "-j", "link", "show", attached.endpoints[0].veth))[0]
    assert port["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert port["master"] == network.bridge
    assert "inet6" not in lab.node.ip("addr", "show", network.bridge)
    with pytest.raises(SubnetTaken, match=r"10\.77\.0\.0/24"):
        lab.on_node(lambda: manager.create(NetworkSpec("clash", subnet="10.77.0.0/16")))


def test_pools_avoid_what_the_node_routes(lab: Lab) -> None:
    lab.node.ip("route", "add", "172.17.0.0/16", "via", "10.77.0.2")
    manager = lab.manager()
    networks = lab.on_node(manager.list)
    assert [network.subnet for network in networks] == ["172.18.0.0/16"]


def test_a_failed_attach_leaves_the_sandbox_as_it_was(lab: Lab) -> None:
    manager = lab.manager()
    lab.on_node(lambda: manager.create(NetworkSpec("blue", subnet="10.9.0.0/24")))
    container(lab, manager, "c1", AttachSpec("blue", address="10.9.0.5"))
    path = lab.on_node(lambda: manager.sandbox("c2"))
    with pytest.raises(Exception, match=r"10\.9\.0\.5 is in use"):
        lab.on_node(lambda: manager.attach("c2", [AttachSpec("bridge"), AttachSpec("blue", address="10.9.0.5")]))
    sandbox = lab.on_node(lambda: manager.inspect("c2"))
    assert sandbox.endpoints == ()
    assert path is not None
    inside = lab.inside(path)
    assert "eth0" not in inside.ip("link")
    attached = lab.on_node(lambda: manager.attach("c2", [AttachSpec("blue")]))
    assert attached.address != "10.9.0.5"


def test_removing_the_last_network_restores_the_node(lab: Lab) -> None:
    manager = lab.manager()

    def forwarding() -> str:
        return lab.node.command("sysctl", "-n", "net.ipv4.ip_forward").strip()

    assert forwarding() == "0"
    lab.on_node(lambda: manager.create(NetworkSpec("blue")))
    assert forwarding() == "1"
    assert "table ip wharf" in lab.node.nft("list", "tables")
    lab.on_node(lambda: manager.remove("blue"))
    assert forwarding() == "0"
    assert lab.node.nft("list", "ruleset") == ""
    assert {name for name in link_names(lab.node) if name.startswith("wharf")} == set()
