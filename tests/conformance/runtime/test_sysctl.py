"""config-linux.md, sysctl: kernel parameters of the container's namespaces, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig, RuntimeFailed
from tests.conformance.runtime.conftest import Runner


def setting(**values: str) -> Any:
    return lambda config: config["linux"].update(sysctl={name.replace("__", "."): value for name, value in values.items()})


def exactly(values: dict[str, str]) -> Any:
    return lambda config: config["linux"].update(sysctl=values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.ip_forward", "1"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/lo/forwarding", "1"),
        ("kernel.shmmax", "12345678"),
        ("kernel.msgmax", "4321"),
        ("kernel.sem", "10\t20\t30\t40"),
        ("fs.mqueue.msg_max", "7"),
        ("kernel.domainname", "quay.example"),
    ],
)
def test_set_inside_only(runner: Runner, name: str, value: str) -> None:
    path = Path("/proc/sys", name.replace(".", "/"))
    before = path.read_text()
    assert before != value + "\n"
    assert runner.run("cat", str(path), change=exactly({name: value})).output == value + "\n"
    assert path.read_text() == before


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.overcommit_memory", "fs.file-max", "kernel.core_pattern", "dev.cdrom.debug"]
)
def test_of_the_whole_machine_are_refused(runner: Runner, name: str) -> None:
    with pytest.raises(InvalidConfig, match=name):
        runner.plan("true", change=exactly({name: "1"}))


@pytest.mark.parametrize(
    ("name", "namespace"), [("net.ipv4.ip_forward", "network"), ("kernel.shmmax", "ipc"), ("kernel.domainname", "uts")]
)
def test_without_the_namespace_they_would_be_the_hosts(runner: Runner, name: str, namespace: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {name: "1"}
        config["hostname"] = ""
        config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != namespace]

    with pytest.raises(InvalidConfig, match=f"needs a {namespace} namespace"):
        runner.plan("true", change=change)


@pytest.mark.parametrize("name", ["net.ipv4.no_such_parameter", "net/ipv4/conf/nolink/forwarding"])
def test_of_no_such_name(runner: Runner, name: str) -> None:
    with pytest.raises(RuntimeFailed, match="No such file"):
        runner.start("true", change=exactly({name: "1"}))


@pytest.mark.parametrize("name", ["net.ipv4", "net..ipv4", "net/../kernel/panic", ""])
def test_names_that_lead_elsewhere(runner: Runner, name: str) -> None:
    with pytest.raises((InvalidConfig, RuntimeFailed)):
        runner.start("true", change=exactly({name: "1"}))


def test_a_value_that_the_kernel_refuses_is_named(runner: Runner) -> None:
    with pytest.raises(RuntimeFailed, match="net/ipv4/ip_forward=much: Invalid argument"):
        runner.start("true", change=setting(net__ipv4__ip_forward="much"))
