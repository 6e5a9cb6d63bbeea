"""config-linux.md, netDevices: links of the runtime's network namespace; here one of the test's own, made by unshare(1)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import Runner

# a pair, one end of which has a name, a number and addresses that must survive
LINKS = """
ip link add wa type veth peer name wb && ip link set wa address 02:00:00:00:00:07 mtu 1400
ip addr add 10.11.12.13/24 dev wa; ip addr add 10.11.12.14/24 dev wa; ip addr add 2001:db8::7/64 dev wa nodad
ip addr add 169.254.3.4/16 scope link dev wa
ip addr add 10.11.12.99/24 dev wa valid_lft 500 preferred_lft 500
ip link set wb up
"""
SHOW = "ip -o link; ip -o addr"


class Machine:
    """A network namespace with LINKS, for as long as a script runs in it."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def run(self, devices: dict[str, Any], script: str = SHOW, after: str = "", check: int = 0, **config: Any) -> str:
        """What the container prints, and then `after` there; `config` replaces keys of `linux`."""
        made = self.command.configure("sh", "-c", script)
        made["linux"].update(netDevices=devices, **config)
        self.command.write(made)
        words = ["unshare", "--net", "sh", "-c", f'{LINKS}"$@"; s=$?; {after or ":"}; exit $s', "sh"]
        return self.command.run(behind=words, check=check).stdout


@pytest.fixture
def machine(command: Command) -> Machine:
    return Machine(command)


def link(output: str, name: str) -> str:
    (line,) = [line for line in output.splitlines() if f" {name}@" in line or f" {name}:" in line]
    return line


def addresses(output: str, name: str) -> set[str]:
    words = [line.split() for line in output.splitlines()]
    return {line[3] for line in words if line[1] == name and line[2] in ("inet", "inet6")}


def test_moved_up_with_all_it_has(machine: Machine) -> None:
    output = machine.run({"wa": {}})
    shown = link(output, "wa")
    assert "UP" in shown.split("<")[1].split(">")[0].split(",")
    assert "mtu 1400" in shown
    assert "02:00:00:00:00:07" in shown


def test_permanent_global_addresses_stay_and_no_others(machine: Machine) -> None:
    found = addresses(machine.run({"wa": {}}), "wa")
    assert {address for address in found if not address.startswith("fe80:")} == {
        "10.11.12.13/24", "10.11.12.14/24", "2001:db8::7/64",
    }  # fmt: skip


def test_renamed(machine: Machine) -> None:
    output = machine.run({"wa": {"name": "eth0"}})
    assert "10.11.12.13/24" in addresses(output, "eth0")
    assert " wa" not in output


def test_several_at_once(machine: Machine) -> None:
    output = machine.run({"wa": {"name": "eth0"}, "wb": {"name": "eth1"}}, after="ip -o link")
    assert link(output, "eth0")
    assert link(output, "eth1")
    assert " wb" not in output


def test_a_template_is_numbered_by_the_kernel(machine: Machine) -> None:
    output = machine.run({"wa": {"name": "eth%d"}, "wb": {"name": "eth%d"}})
    assert link(output, "eth0")
    assert link(output, "eth1")


def test_gone_from_the_host_and_never_moved_back(machine: Machine) -> None:
    output = machine.run({"wa": {}}, script="true", after="ip -o link")
    # a virtual link dies with its namespace, and its other end with it: the kernel takes its time
    assert " wa@" not in output


@pytest.mark.parametrize(
    ("devices", "word"),
    [
        ({"absent": {}}, "no such network device"),
        ({"wa": {"name": "lo"}}, "has a lo already"),
        ({"wa": {}, "absent": {}}, "no such network device"),
    ],
)
def test_what_cannot_be_moved_is_an_error_and_nothing_is(machine: Machine, devices: dict[str, Any], word: str) -> None:
    output = machine.run(devices, check=1, after="ip -o addr")
    assert word in output
    assert {"10.11.12.13/24", "169.254.3.4/16", "10.11.12.99/24"} <= addresses(output, "wa")


def test_hooks_find_them_in_place(machine: Machine) -> None:
    """config-linux.md has them made available; createRuntime hooks see the runtime environment as it was configured."""
    script = 'pid=$(sed -n "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/p"); nsenter -t $pid -n ip -o link > $0'
    seen = machine.command.bundle / "seen"
    made = machine.command.configure("true")
    made["linux"]["netDevices"] = {"wa": {"name": "eth0"}}
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script, str(seen)], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    made["hooks"] = {"createRuntime": [hook]}
    machine.command.write(made)
    machine.command.run(behind=["unshare", "--net", "sh", "-c", LINKS + 'exec "$@"', "sh"])
    assert link(seen.read_text(), "eth0")


@pytest.mark.parametrize(
    ("devices", "word"),
    [
        ({"wa": {"name": "x" * 16}}, "not a name"),
        ({"a/b": {}}, "not a name"),
        ({"wa": {"name": "a b"}}, "blank"),
        ({"wa": {"name": "eth0"}, "wb": {"name": "eth0"}}, "the same name"),
    ],
)
def test_names_that_are_none(runner: Runner, devices: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidConfig, match=word):
        runner.plan("true", change=lambda config: config["linux"].update(netDevices=devices))


def test_the_runtimes_own_network_is_no_place_to_move_to(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["netDevices"] = {"wa": {}}
        config["linux"].pop("sysctl", None)
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = "/proc/self/ns/net"

    with pytest.raises(InvalidConfig, match="the runtime's own"):
        runner.start("true", change=change)
