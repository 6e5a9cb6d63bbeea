"""features.md and features-linux.md: the document says what is so, tried out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps, schema
from tests.conformance.runtime.command import Command
from tests.conformance.runtime.conftest import Runner


@pytest.fixture
def told(command: Command) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(command("features").stdout)
    return document


def test_versions_are_those_that_are_taken(told: dict[str, Any], runner: Runner) -> None:
    for key in ("ociVersionMin", "ociVersionMax"):
        runner.plan("true", change=lambda config, version=told[key]: config.update(ociVersion=version))


def test_names_are_the_specs(told: dict[str, Any]) -> None:
    hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    assert told["hooks"] == hooks
    assert set(told["linux"]["namespaces"]) == {"mount", "pid", "network", "uts", "ipc", "cgroup", "user", "time"}
    assert told["linux"]["capabilities"][0] == "CAP_CHOWN"
    assert len(told["linux"]["capabilities"]) == len(caps.NAMES) > int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert set(told["linux"]["memoryPolicy"]["modes"]) == set(schema.MEMORY_MODES)


def test_every_mount_option_is_understood(told: dict[str, Any], runner: Runner) -> None:
    """By the runtime: none of them reaches the file system as an option of its own."""
    for option in told["mountOptions"]:
        shifted = {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]} if option in ("idmap", "ridmap") else {}
        mount = {"destination": "/d", "type": "bind", "source": "/tmp", "options": ["bind", option], **shifted}
        if shifted:
            mount["gidMappings"] = mount["uidMappings"]
        plan = runner.plan("true", change=lambda config, mount=mount: config["mounts"].append(mount))
        assert plan.mounts[-1].params == [], option


def test_the_options_that_a_runtime_must_have(told: dict[str, Any]) -> None:
    required = (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec noiversion"
        " nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared rslave runbindable rw"
        " shared silent slave strictatime suid sync unbindable"
    )
    assert set(required.split()) <= set(told["mountOptions"])


@pytest.mark.parametrize("key", ["actions", "operators", "archs", "supportedFlags"])
def test_seccomps_words_compile(told: dict[str, Any], runner: Runner, key: str) -> None:
    for word in told["linux"]["seccomp"][key]:
        profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
        if key == "archs":
            profile["architectures"] = [word]
        elif key == "supportedFlags":
            profile["flags"] = [word]
        else:
            entry: dict[str, Any] = {"names": ["read"], "action": word if key == "actions" else "SCMP_ACT_ERRNO"}
            if key == "operators":
                entry["args"] = [{"index": 0, "value": 1, "op": word}]
            profile["syscalls"] = [entry]
            profile["listenerPath"] = "/run/listener"
        assert runner.plan("true", change=lambda config, profile=profile: config["linux"].update(seccomp=profile)).seccomp


def test_nothing_of_the_machine_is_in_it(told: dict[str, Any]) -> None:
    """What the runtime can do, wherever it runs; only the version of Landlock is the kernel's."""
    assert told["linux"]["cgroup"] == {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True}
    assert told["linux"]["netDevices"] == {"enabled": True}
    assert told["linux"]["intelRdt"] == {"enabled": True, "schemata": True, "monitoring": True}
    assert told["linux"]["mountExtensions"] == {"idmap": {"enabled": True}}
