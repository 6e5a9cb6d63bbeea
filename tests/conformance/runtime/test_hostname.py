"""config.md, hostname and domainname: of the container's uts namespace, never the host's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.conftest import Runner

DOMAIN = Path("/proc/sys/kernel/domainname")


def named(**names: str) -> Any:
    return lambda config: config.update(names)


def without_uts(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "uts"]


def test_both_names_are_set_inside_only(runner: Runner) -> None:
    before = os.uname().nodename, DOMAIN.read_text()
    outcome = runner.sh("hostname; cat /proc/sys/kernel/domainname", change=named(hostname="berth-7", domainname="quay.example"))
    assert outcome.lines == ["berth-7", "quay.example"]
    assert (os.uname().nodename, DOMAIN.read_text()) == before


def test_without_a_name_the_hosts_is_shown(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config.pop("hostname", None)

    assert runner.run("hostname", change=change).output.strip() == os.uname().nodename


def test_a_joined_uts_namespace_is_given_the_name(runner: Runner) -> None:
    holder = runner.start("sleep", "1000", hostname="first")

    def change(config: dict[str, Any]) -> None:
        config["hostname"] = "second"
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == "uts":
                entry["path"] = f"/proc/{holder.init.pid}/ns/uts"

    assert runner.run("hostname", change=change).output == "second\n"
    assert holder.exec("hostname").output == "second\n"


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_the_host_is_not_renamed(runner: Runner, key: str) -> None:
    def change(config: dict[str, Any]) -> None:
        without_uts(config)
        config[key] = "x"

    with pytest.raises(InvalidConfig, match=f"{key} needs a uts namespace"):
        runner.plan("true", change=change)


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_longest_name(runner: Runner, key: str) -> None:
    program = ("hostname",) if key == "hostname" else ("cat", str(DOMAIN))
    assert runner.run(*program, change=named(**{key: "x" * 64})).output == "x" * 64 + "\n"
    with pytest.raises(InvalidConfig, match="longer than 64"):
        runner.plan("true", change=named(**{key: "x" * 65}))
