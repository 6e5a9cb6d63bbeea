"""An agent that comes back: the kernel is put in order without touching what is in order."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from agent.network.attach import AttachSpec, Report
from agent.network.manager import Networks
from agent.protocol.spec import NetworkSpec, PortSpec
from agent.sys import netns
from tests.integration.agent.netlab import Lab, ask, container, eventually, lab, needs_root, refused

__all__ = ["lab"]
pytestmark = needs_root


def restart(lab: Lab, old: Networks) -> Networks:
    """kill -9: sockets close with the process, everything else stays."""
    lab.on_node(old.close)
    return lab.manager()


def test_a_restart_keeps_endpoints_ports_and_addresses(lab: Lab) -> None:
    first = lab.manager()
    lab.on_node(lambda: first.create(NetworkSpec("blue", subnet="10.9.0.0/24", labels={"a": "b"})))
    inside, attached = container(
        lab, first, "c1", AttachSpec("bridge"), AttachSpec("blue"), ports=(PortSpec(80, 8080), PortSpec(81))
    )
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    before = json.loads(lab.node.ip("-j", "link"))
    second = restart(lab, first)
    report = lab.on_node(lambda: second.sync({"c1"}))
    assert report == Report()
    assert json.loads(lab.node.ip("-j", "link")) == before
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")
    assert lab.on_node(lambda: second.inspect("c1")).ports == attached.ports
    assert lab.on_node(lambda: second.get("blue")).labels == {"a": "b"}
    _, other = container(lab, second, "c2", AttachSpec("blue"))
    assert other.address not in {endpoint.address for endpoint in attached.endpoints}
    assert lab.on_node(lambda: second.sandbox("c1")) == attached.sandbox_path, "the same sandbox, not a new one"


def test_an_open_connection_survives_the_restart(lab: Lab) -> None:
    import socket

    first = lab.manager()
    inside, _ = container(lab, first, "c1", ports=(PortSpec(80, 8080),))

    def listen() -> socket.socket:
        sock = socket.socket()
        sock.settimeout(5)
        sock.bind(("0.0.0.0", 80))
        sock.listen()
        return sock

    with inside.run(listen) as server, lab.peer.run(lambda: socket.create_connection(("10.77.0.1", 8080), 5)) as client:
        accepted, _ = server.accept()
        with accepted:
            second = restart(lab, first)
            lab.on_node(lambda: second.sync({"c1"}))
            client.sendall(b"still there")
            assert accepted.recv(100) == b"still there"


def test_what_is_missing_comes_back(lab: Lab) -> None:
    first = lab.manager()
    blue = lab.on_node(lambda: first.create(NetworkSpec("blue")))
    inside, attached = container(lab, first, "c1", AttachSpec("blue"), ports=(PortSpec(80, 8080),))
    other, _ = container(lab, first, "c2", AttachSpec("blue"), ports=(PortSpec(80, 8081),))
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    lab.serve(other, "0.0.0.0", 80, name="c2")
    lab.node.ip("link", "del", blue.bridge)
    lab.node.ip("link", "del", attached.endpoints[0].veth)
    lab.node.nft("flush", "ruleset")
    lab.node.command("sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert refused(lab.peer, "10.77.0.1", 8080)
    second = restart(lab, first)
    report = lab.on_node(lambda: second.sync({"c1", "c2"}))
    assert set(report.repaired) == {"c1", "c2"}
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")
    assert ask(lab.peer, "10.77.0.1", 8081).startswith("c2 ")
    lab.serve(lab.peer, "10.77.0.2", 9000, name="peer")
    assert ask(inside, "10.77.0.2", 9000).startswith("peer "), "its default route is back"


def test_strays_of_ours_go_and_others_stay(lab: Lab, tmp_path: Path) -> None:
    first = lab.manager()
    inside, attached = container(lab, first, "c1", ports=(PortSpec(80, 8080),))
    lab.leave(inside)
    second = restart(lab, first)
    lab.node.ip("link", "add", "wharf-0badbeef", "type", "bridge")
    lab.node.ip("link", "add", "wharf-elsewhere", "type", "bridge")
    lab.node.ip("link", "add", "docker0", "type", "bridge")
    lab.node.nft("add", "table", "ip", "other")
    stray = str(tmp_path / "run" / "netns" / "stray")
    lab.on_node(lambda: netns.create(stray, lambda: None))
    report = lab.on_node(lambda: second.sync(set()))
    assert report.removed_sandboxes == ("c1",)
    assert "wharf-0badbeef" in report.removed_links
    assert not os.path.exists(stray)
    assert not os.path.exists(attached.sandbox_path)
    names = {link["ifname"] for link in json.loads(lab.node.ip("-j", "link"))}
    assert {"wharf-elsewhere", "docker0", "up0"} <= names
    eventually(lambda: attached.endpoints[0].veth not in lab.node.ip("link"), "the veth of the dead goes")
    assert "table ip other" in lab.node.nft("list", "tables")
    assert "8080" not in lab.node.nft("list", "ruleset")


def test_a_port_lost_while_no_agent_ran_is_reported(lab: Lab) -> None:
    first = lab.manager()
    container(lab, first, "c1", ports=(PortSpec(80, 8080),))
    lab.on_node(first.close)
    lab.serve(lab.node, "0.0.0.0", 8080, name="thief")
    second = lab.manager()
    report = lab.on_node(lambda: second.sync({"c1"}))
    assert [port.host_port for port in report.lost_ports] == [8080]


def test_a_sandbox_whose_namespace_is_gone_is_reported_and_made_anew(lab: Lab) -> None:
    first = lab.manager()
    inside, attached = container(lab, first, "c1")
    lab.leave(inside)
    lab.on_node(lambda: netns.drop(attached.sandbox_path))
    second = restart(lab, first)
    assert lab.on_node(lambda: second.sync({"c1"})).broken == ("c1",)
    again, _ = container(lab, second, "c1")
    assert "eth0" in again.ip("link")


def test_a_half_written_record_does_not_stop_the_agent(lab: Lab, tmp_path: Path) -> None:
    first = lab.manager()
    container(lab, first, "c1")
    lab.on_node(first.close)
    (tmp_path / "run" / "network" / "sandboxes" / "c2.json").write_text('{"container_id": "c')
    second = lab.manager()
    assert lab.on_node(lambda: second.sync({"c1"})).broken == ()


def test_two_agents_in_one_namespace_keep_apart(lab: Lab, tmp_path: Path) -> None:
    first = lab.manager()
    second = lab.on_node(lambda: Networks(str(tmp_path / "state2"), str(tmp_path / "run2"), prefix="quay"))
    inside, _ = container(lab, first, "c1", ports=(PortSpec(80, 8080),))
    path = lab.on_node(lambda: second.sandbox("d1"))
    attached = lab.on_node(lambda: second.attach("d1", ports=(PortSpec(80, 8081),)))
    assert path is not None
    assert attached.address.startswith("172.18."), "it avoids the other's subnet"
    lab.serve(inside, "0.0.0.0", 80, name="c1")
    try:
        assert lab.on_node(lambda: second.sync({"d1"})).removed_links == ()
        assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")
    finally:
        lab.on_node(second.teardown)
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("c1 ")


def test_many_threads_attach_at_once(lab: Lab) -> None:
    manager = lab.manager()
    fd = os.open(lab.node.path, os.O_RDONLY)
    results: list[str] = []
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            manager.sandbox(f"t{number}")
            results.append(manager.attach(f"t{number}", ports=(PortSpec(80),)).address)
        except BaseException as error:  # noqa: BLE001  # shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=lambda n=n: netns.inside(fd, lambda: one(n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert errors == []
    assert len(set(results)) == 16
    assert lab.node.nft("list", "map", "ip", "wharf", "ports").count("tcp .") == 16
