"""CVE-2022-0492 and CVE-2023-25809: a cgroup v1 hierarchy, mounted or found writable inside, runs a program of the attacker's on
the host through release_agent. The probe only looks whether the file is there: writing would change the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps, lock
from agent.runtime.cgroup import hierarchies
from agent.runtime.defaults import CAPABILITIES
from tests.conformance.runtime.conftest import Runner

CONTROLLER = next(iter(name for name in hierarchies().v1 if not name.startswith("name=")), "")
needs_v1 = pytest.mark.skipif(not CONTROLLER, reason="no cgroup v1 hierarchy is mounted: release_agent exists only there")
MOUNT = f"mkdir -p /dev/shm/m && mount -t cgroup -o {CONTROLLER} x /dev/shm/m && test -w /dev/shm/m/release_agent && echo reached"
ATTACKS = (MOUNT, f"unshare -UrCm sh -c '{MOUNT}'", f"unshare -m sh -c '{MOUNT}'")
FENCES = ("capabilities", "seccomp", "landlock", "cgroup namespace")


def only(*fences: str) -> Any:
    """A configuration with no other fence than these."""

    def change(config: dict[str, Any]) -> None:
        linux = config["linux"]
        linux["maskedPaths"] = linux["readonlyPaths"] = []
        if "capabilities" not in fences:
            config["process"]["capabilities"] = {kind: list(caps.NAMES) for kind in ("bounding", "permitted", "effective")}
        if "seccomp" not in fences:
            del linux["seccomp"]
        config["annotations"] = {lock.ANNOTATION: "on" if "landlock" in fences else "off"}
        if "cgroup namespace" not in fences:
            linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "cgroup"]

    return change


@needs_v1
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_default_and_each_fence_alone_stop_it(runner: Runner, attack: str) -> None:
    assert "reached" not in runner.sh(attack).output
    for fence in FENCES:
        if fence == "capabilities" and "-U" in attack:
            continue  # a user namespace gives them back; there the kernel itself asks for the initial one's since 5.17
        assert "reached" not in runner.sh(attack, change=only(fence)).output, fence


@needs_v1
def test_without_any_fence_the_probe_reaches_it(runner: Runner) -> None:
    assert runner.sh(MOUNT, change=only()).output == "reached\n"


def without_namespace(*options: str) -> Any:
    """What a rootless container has: binds of its own cgroup instead of mounts of the namespace."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "cgroup"]
        for mount in config["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                mount["options"] = ["nosuid", "noexec", "nodev", *options]

    return change


@pytest.mark.parametrize("readonly", [True, False])
def test_the_cgroups_shown_are_read_only_without_a_namespace_too(runner: Runner, readonly: bool) -> None:
    tree = hierarchies()
    point = f"/sys/fs/cgroup/{os.path.basename(next(iter(tree.v1.values())))}" if tree.v1 else "/sys/fs/cgroup"
    script = f"mkdir {point}/made && rmdir {point}/made && echo writable"
    outcome = runner.sh(script, change=without_namespace(*(["ro"] if readonly else [])))
    assert ("writable" in outcome.output) is not readonly, outcome.output
    assert ("Read-only" in outcome.output) is readonly


def test_in_a_user_namespace_the_cgroups_are_read_only(runner: Runner, tmp_path: Path) -> None:
    names = (*CAPABILITIES, "CAP_SYS_ADMIN")
    points = "for point in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $point/made 2>/dev/null && echo $point; done; echo end"
    assert runner.sh(points, userns=(0, 0, 65536), capabilities=names).output == "end\n"
