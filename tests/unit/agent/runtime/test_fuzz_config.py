"""Any config.json ends in a plan or in an error of ours: mutations of valid ones, and no plan holds a value that could not be.

WHARF_FUZZ=20 multiplies the examples.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.errors import WharfError
from agent.runtime import plan as plans
from agent.runtime.defaults import default_config
from agent.sys.mount import Mount

MORE = int(os.environ.get("WHARF_FUZZ", "1"))
FULL = default_config(["sh"], terminal=True, hostname="berth", additional_gids=[5])
FULL["process"] |= {
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
    "oomScoreAdj": 5,
    "consoleSize": {"height": 20, "width": 70},
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    "scheduler": {"policy": "SCHED_OTHER", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
}
FULL["hooks"] = {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 3}]}
FULL["domainname"] = "harbour"
FULL["linux"] |= {
    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 0, "gid": 0}],
    "personality": {"domain": "LINUX"},
    "rootfsPropagation": "rslave",
    "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
    "uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65_536}],
    "gidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65_536}],
    "cgroupsPath": "/some/place",
}
FULL["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
FULL["linux"]["resources"] |= {
    "memory": {"limit": 1 << 26, "swap": 1 << 27, "swappiness": 60},
    "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
    "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    "unified": {"memory.high": "1000000"},
    "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
}
# short, so that most mutations hit something else; the compiler has its own tests
FULL["linux"]["seccomp"]["syscalls"][0]["names"] = ["read", "write", "execve"]
ROOT = [Mount("bind", "/x", "", ())]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 1, 2**31, 2**32, 2**63, 2**64]),
    st.floats(),
    st.sampled_from(["", "/", "..", "/../..", "\0", "a\0b", "\udcff", "a/b", "rw", "1:2", " ", "\n", "x" * 300]),
    st.text(max_size=8),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a configuration, by keys and indexes."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


PLACES = places(FULL)


def mutate(config: dict[str, Any], path: tuple[Any, ...], value: Any, delete: bool) -> None:
    target: Any = config
    for key in path[:-1]:
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            return  # an earlier mutation took it away
    try:
        if delete:
            del target[path[-1]]
        else:
            target[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return


def outcome(config: Any) -> plans.Plan | WharfError:
    try:
        return plans.compile(config, id="fuzz", rootfs=ROOT, cgroup_parent="/fuzz")
    except WharfError as error:
        return error


def sound(plan: plans.Plan) -> None:
    """What the child, which cannot ask any more, relies on."""
    process = plan.process
    for number in (process.uid, process.gid, *(process.groups or ())):
        assert type(number) is int
        assert 0 <= number < 2**32
    assert process.umask is None or 0 <= process.umask < 2**32
    assert process.oom_score_adj is None or -1000 <= process.oom_score_adj <= 1000
    assert all(0 <= soft <= hard < 2**64 for _, soft, hard in process.rlimits)
    texts = [*process.args, *process.env, process.cwd, plan.hostname, plan.domainname, *plan.masked, *plan.readonly]
    texts += [text for step in plan.mounts for text in (step.source, step.target)]
    assert all(b"\0" not in text for text in texts)
    assert process.cwd.startswith(b"/")
    assert plan.cgroup_path.startswith("/")
    assert ".." not in plan.cgroup_path.split("/")
    for device in plan.devices:
        assert 0 <= device.major < 2**32
        assert 0 <= device.minor < 2**32
    assert isinstance(plan.annotations, dict)


def test_the_seed_is_valid() -> None:
    sound(plans.compile(copy.deepcopy(FULL), id="fuzz", rootfs=ROOT, cgroup_parent="/fuzz"))


@settings(deadline=None, max_examples=400 * MORE, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), values, st.booleans()), min_size=1, max_size=3))
def test_a_mutated_configuration_is_planned_or_refused(changes: list[tuple[tuple[Any, ...], Any, bool]]) -> None:
    config = copy.deepcopy(FULL)
    for path, value, delete in changes:
        mutate(config, path, value, delete)
    result = outcome(config)
    if isinstance(result, WharfError):
        assert result.detail
        json.dumps(result.as_dict())  # it can be told
    else:
        sound(result)


@settings(deadline=None, max_examples=100 * MORE)
@given(values)
def test_anything_at_all_is_refused(value: Any) -> None:
    assert isinstance(outcome(value), WharfError)


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_each_place_bears_each_kind_of_value(path: tuple[Any, ...]) -> None:
    """Nothing by chance: every key once with null, a boolean, numbers out of range, texts and containers."""
    for value in (None, True, -1, 2**70, 1.5, float("nan"), "", "\0", "\udcff", [], [None], [[]], {}, {"": None}, [{}], ["\0"]):
        config = copy.deepcopy(FULL)
        mutate(config, path, value, delete=False)
        result = outcome(config)
        if isinstance(result, WharfError):
            json.dumps(result.as_dict())
        else:
            sound(result)
