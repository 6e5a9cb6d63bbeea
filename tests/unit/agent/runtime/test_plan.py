"""Parsing, checking, and what the supervisor's memory depends on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import InvalidInput
from agent.runtime import mounts, plan
from agent.runtime.cgroup import detect, devices, v1, v2
from agent.runtime.cgroup.cgroup import Cgroup
from agent.runtime.defaults import default_config
from agent.runtime.errors import InvalidConfig
from agent.sys import mountapi as api
from agent.sys.mount import Mount

ROOT = [Mount("bind", "/x", "", ())]
REPOSITORY = Path(__file__).parents[4]


def compiled(**changes: Any) -> plan.Plan:
    config = default_config(["true"])
    for path, value in changes.items():
        target = config
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    return plan.compile(config, id="one", rootfs=ROOT, cgroup_parent="/wharf/")


def test_default_config_compiles() -> None:
    made = compiled()
    assert made.cgroup_path == "/wharf/one"
    assert made.seccomp is not None
    assert json.loads(json.dumps(made.config)) == made.config


def test_cgroups_path() -> None:
    assert compiled(linux__cgroupsPath="/own/place").cgroup_path == "/own/place"
    assert compiled(linux__cgroupsPath="named").cgroup_path == "/wharf/named"


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("process__args", [], "args"),
        ("process__cwd", "relative", "cwd"),
        ("process__env", ["A=\0"], "NUL"),
        ("process__rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "RLIMIT_X"),
        ("process__rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "twice"),
        ("process__capabilities", {"bounding": "CAP_KILL"}, "a list"),
        ("process__apparmorProfile", "p", "AppArmor"),
        ("linux__namespaces", [{"type": "mount"}] * 2, "twice"),
        ("linux__namespaces", [{"type": "mount"}, {"type": "what"}], "what"),
        ("linux__sysctl", {"kernel.core_pattern": "|/x"}, "core_pattern"),
        ("linux__sysctl", {"net..x": "1"}, "not a name"),
        ("linux__uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "user namespace"),
        ("linux__rootfsPropagation", "odd", "odd"),
        ("linux__devices", [{"path": "/dev/x", "type": "z"}], "type"),
        ("linux__personality", {"domain": "BSD"}, "BSD"),
        ("hooks", {"prestart": [{"path": "relative"}]}, "absolute"),
        ("mounts", [{"destination": "/x"}], "no type"),
        ("ociVersion", "2.0.0", "1.x"),
        ("ociVersion", "1.2", "a version"),
    ],
)
def test_mistakes_are_named(path: str, value: Any, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        compiled(**{path: value})


def test_mount_options() -> None:
    step = mounts.from_oci(
        {"destination": "/d", "type": "tmpfs", "source": "t", "options": ["ro", "nosuid", "noatime", "size=1m", "rslave", "rw"]}
    )
    assert step.attr_set == api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NOATIME  # the last of ro and rw counts
    assert step.propagation == [(api.MS_SLAVE, True)]
    assert (api.FSCONFIG_SET_STRING, b"size", b"1m", 0) in step.params


def test_overlay_layers_keep_their_order_and_colons() -> None:
    step = mounts.from_storage(Mount("overlay", "overlay", "", ("lowerdir=/a:b", "lowerdir=/c", "upperdir=/u", "workdir=/w")))
    assert step.lowers == [b"/a:b", b"/c"]
    classic = mounts.from_storage(Mount("overlay", "overlay", "", ("lowerdir=/a:/c",)))
    assert classic.lowers == [b"/a", b"/c"]


def test_cgroup_v2_conversion() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 150, "reservation": 50},
        "cpu": {"quota": 5000, "period": 10000, "shares": 1024},
        "pids": {"limit": -1},
        "blockIO": {"weight": 1000},
        "unified": {"memory.high": "9"},
    }
    written = {file: value for _, file, value, _ in v2.settings(resources)}
    assert written == {
        "memory.swap.max": "50", "memory.max": "100", "memory.low": "50", "cpu.weight": "100", "cpu.max": "5000 10000",
        "pids.max": "max", "io.weight": "10000", "memory.high": "9",
    }  # fmt: skip
    assert [v2.weight_of_shares(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    with pytest.raises(InvalidConfig, match=r"memory\.swap"):
        v2.settings({"memory": {"swap": 10}})
    with pytest.raises(InvalidConfig, match="slash"):
        v2.settings({"unified": {"../x": "1"}})


def test_cgroup_v1_order() -> None:
    files = [file for _, file, _, _ in v1.settings({"memory": {"limit": 1, "swap": 2}, "cpu": {"quota": 1, "period": 2}})]
    assert files == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us"]


def test_device_rules_as_v1_lines() -> None:
    lines = devices.v1_writes(devices.rules([{"allow": True, "type": "c", "major": 10, "access": "rw"}]))
    assert lines[0] == ("devices.deny", ["a"])
    assert lines[1][0] == "devices.allow"
    assert lines[1][1][:2] == ["c 10:* rw", "c *:* m"]


def test_device_rules_before_one_for_everything_are_left_out() -> None:
    wanted = [{"allow": True, "type": "c", "major": 10}, {"allow": True}, {"allow": False, "type": "b", "major": 8, "minor": 0}]
    lines = devices.v1_writes(devices.rules(wanted))
    assert lines[:2] == [("devices.allow", ["a"]), ("devices.deny", ["b 8:0 rwm"])]


def test_hierarchies_of_the_three_kinds() -> None:
    v1_lines = (
        "30 20 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 20 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    )
    found = detect.parse(v1_lines + "32 20 0:3 / /no/such/unified rw - cgroup2 cgroup2 rw\n")
    assert found.v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "name=systemd": "/sys/fs/cgroup/systemd",
    }  # fmt: skip
    assert found.v2 == "/no/such/unified"
    assert len(found.mount_points()) == 3
    assert detect.parse("32 20 0:3 / /c rw - cgroup2 cgroup2 rw\n").v1 == {}


@pytest.mark.parametrize("path", ["relative", "/", "/a/../b", ""])
def test_cgroup_paths_that_would_leave_the_hierarchy(path: str) -> None:
    with pytest.raises(InvalidConfig):
        Cgroup(path, detect.Hierarchies({}, "/c", frozenset()))


HEAVY = "asyncio dataclasses inspect json logging pathlib re shutil socket subprocess threading typing".split()  # noqa: SIM905  # a list of words reads best so


def test_warm_path_imports_nothing_heavy() -> None:
    """The supervisor imports these rooms and may not grow beyond its memory budget."""
    program = "import sys; import agent.runtime.plan, agent.runtime.container, agent.runtime.exec; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {program}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(set(done.stdout.split()) & set(HEAVY)) == []
