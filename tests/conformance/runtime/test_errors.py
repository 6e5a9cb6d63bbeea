"""config.md "Valid values", "Extensibility" and the sentences that a value MUST obey: what is refused, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.protocol.errors import InvalidInput
from tests.conformance.runtime.conftest import Runner

Change = Callable[[dict[str, Any]], Any]


def _set(path: str, value: Any) -> Change:
    """A change of one key; `path` has its parents, separated by dots."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target = config
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value

    return change


def _added(path: str, value: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target = config
        for parent in parents:
            target = target[parent]
        target.setdefault(last, []).append(value)

    return change


NODE = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
ALLOW = {"defaultAction": "SCMP_ACT_ALLOW"}
CALL = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
REFUSED: dict[str, tuple[Change, str]] = {
    "version of another major": (_set("ociVersion", "2.0.0"), "ociVersion"),
    "version that is none": (_set("ociVersion", "1.0"), "ociVersion"),
    "no root": (lambda config: config.pop("root"), "root is missing"),
    "root without path": (_set("root", {"readonly": True}), "root.path is missing"),
    "mount without destination": (_added("mounts", {"type": "tmpfs"}), "destination"),
    "mount without type": (_added("mounts", {"destination": "/d"}), "has no type"),
    "half the mappings of a mount": (
        _added(
            "mounts",
            {"destination": "/d", "type": "bind", "source": "/", "options": ["bind"],
             "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]},
        ),
        "give both",
    ),
    "empty args": (_set("process.args", []), "process.args"),
    "relative cwd": (_set("process.cwd", "tmp"), "process.cwd"),
    "rlimit of the kernel's unknown": (_set("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "RLIMIT_X"),
    "rlimit twice": (_set("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2), "given twice"),
    "oomScoreAdj out of range": (_set("process.oomScoreAdj", 1001), "oomScoreAdj"),
    "scheduler of no name": (_set("process.scheduler", {"policy": "SCHED_X"}), "policy"),
    "scheduler flag of no name": (_set("process.scheduler", {"policy": "SCHED_OTHER", "flags": ["X"]}), "flags"),
    "level of io priority": (_set("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}), "priority"),
    "list of processors": (_set("process.execCPUAffinity", {"initial": "0-"}), "execCPUAffinity.initial"),
    "hook with a relative path": (_set("hooks.prestart", [{"path": "true"}]), "must be absolute"),
    "hook with no time": (_set("hooks.poststop", [{"path": "/bin/true", "timeout": 0}]), "timeout"),
    "annotation without a name": (_set("annotations", {"": "x"}), "empty key"),
    "annotation that is no string": (_set("annotations", {"a": 1}), "annotations.a"),
    "namespace of no type": (_added("linux.namespaces", {"type": "what"}), "type"),
    "namespace twice": (_added("linux.namespaces", {"type": "pid"}), "given twice"),
    "relative path of a namespace": (_set("linux.namespaces", [{"type": "mount"}, {"type": "pid", "path": "ns"}]), "absolute"),
    "mappings without a user namespace": (
        _set("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}]), "new user namespace",
    ),
    "user namespace without mappings": (_added("linux.namespaces", {"type": "user"}), "needs uidMappings"),
    "offset without a time namespace": (_set("linux.timeOffsets", {"monotonic": {"secs": 1}}), "time namespace"),
    "device with a relative path": (_added("linux.devices", {**NODE, "path": "dev/x"}), "must be absolute"),
    "device of no type": (_added("linux.devices", {**NODE, "type": "x"}), "type"),
    "device without a number": (_added("linux.devices", {"path": "/dev/x", "type": "b", "major": 7}), "major and minor"),
    "device rule of no type": (_added("linux.resources.devices", {"allow": True, "type": "x"}), "type"),
    "weight of nothing": (_set("linux.resources.blockIO", {"weightDevice": [{"major": 8, "minor": 0}]}), "weighs nothing"),
    "throttle without a rate": (
        _set("linux.resources.blockIO", {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}), "rate is missing",
    ),
    "rdma of nothing": (_set("linux.resources.rdma", {"mlx5_0": {}}), "limits nothing"),
    "page size missing": (_set("linux.resources.hugepageLimits", [{"limit": 1}]), "pageSize is missing"),
    "shares below zero": (_set("linux.resources.cpu", {"shares": -1}), "cpu.shares"),
    "idle that is neither": (_set("linux.resources.cpu", {"idle": 2}), "cpu.idle"),
    "limit that is a word": (_set("linux.resources.memory", {"limit": "1G"}), "memory.limit"),
    "sysctl of the host": (_set("linux.sysctl", {"kernel.panic": "1"}), "kernel.panic"),
    "propagation of no name": (_set("linux.rootfsPropagation", "upwards"), "rootfsPropagation"),
    "relative mask": (_set("linux.maskedPaths", ["proc/kcore"]), "absolute paths"),
    "relative read-only path": (_set("linux.readonlyPaths", ["proc/sys"]), "absolute paths"),
    "personality of no name": (_set("linux.personality", {"domain": "BSD"}), "domain"),
    "personality with a flag": (_set("linux.personality", {"domain": "LINUX", "flags": ["X"]}), "flags"),
    "memory policy of no name": (_set("linux.memoryPolicy", {"mode": "MPOL_X"}), "mode"),
    "memory policy without nodes": (_set("linux.memoryPolicy", {"mode": "MPOL_BIND"}), "needs nodes"),
    "memory policy with nodes in vain": (_set("linux.memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"}), "takes no nodes"),
    "seccomp without a default": (_set("linux.seccomp", {"syscalls": []}), "defaultAction"),
    "seccomp action": (_set("linux.seccomp", {"defaultAction": "SCMP_ACT_X"}), "SCMP_ACT_X"),
    "seccomp entry without names": (_set("linux.seccomp", {**ALLOW, "syscalls": [{**CALL, "names": []}]}), "names"),
    "seccomp architecture": (_set("linux.seccomp", {**ALLOW, "architectures": ["SCMP_ARCH_X"]}), "SCMP_ARCH_X"),
    "seccomp flag": (_set("linux.seccomp", {**ALLOW, "flags": ["SECCOMP_FILTER_FLAG_X"]}), "SECCOMP_FILTER_FLAG_X"),
    "seccomp operator": (
        _set("linux.seccomp", {**ALLOW, "syscalls": [{**CALL, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_X"}]}]}), "op",
    ),
    "seventh argument": (
        _set("linux.seccomp", {**ALLOW, "syscalls": [{**CALL, "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}), "0..5",
    ),
    "errno of a default that carries none": (_set("linux.seccomp", {**ALLOW, "defaultErrnoRet": 1}), "carries no errno"),
    "errno of an action that carries none": (
        _set("linux.seccomp", {**ALLOW, "syscalls": [{**CALL, "action": "SCMP_ACT_KILL", "errnoRet": 1}]}), "carries no errno",
    ),
    "seccomp metadata for nobody": (_set("linux.seccomp", {**ALLOW, "listenerMetadata": "x"}), "listenerPath"),
    "NUL in a string": (_added("process.env", "A=\0"), "NUL"),
    "null in a list": (_added("process.args", None), "null"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_values_are_refused(runner: Runner, name: str) -> None:
    change, word = REFUSED[name]
    with pytest.raises(InvalidInput, match=word):
        runner.plan("true", change=change)


@pytest.mark.parametrize("where", ["", "process", "process.user", "root", "linux", "linux.resources", "linux.seccomp", "mounts"])
def test_unknown_keys_are_ignored(runner: Runner, where: str) -> None:
    def change(config: dict[str, Any]) -> None:
        target: Any = config
        for part in filter(None, where.split(".")):
            target = target[part]
        target = target[0] if isinstance(target, list) else target
        target["org.wharfinger.unknown"] = {"a": [1]}

    assert runner.run("true", change=change).status == 0


@pytest.mark.parametrize("key", ["hostname", "domainname", "annotations", "hooks", "mounts"])
def test_null_is_absence(runner: Runner, key: str) -> None:
    if key == "mounts":  # a container without any /proc still runs what needs none
        assert runner.run("true", change=lambda config: config.update(mounts=None)).status == 0
        return
    assert runner.run("true", change=_set(key, None)).status == 0


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0", "1.99.0+build.7"])
def test_any_minor_version_is_understood(runner: Runner, version: str) -> None:
    assert runner.plan("true", change=_set("ociVersion", version)).config["ociVersion"] == version
