"""One container under ours, runc and crun: every difference that its process sees is explained in docs/runtime-differences.md.

The tables are of one version of each peer, and of a node with cgroup v1 beside v2; elsewhere rows may explain nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import Cgroup, hierarchies
from agent.runtime.defaults import default_config
from tests.conformance.runtime.differential import peers, table
from tests.conformance.runtime.differential.peers import Bundle, Peer
from tests.conformance.runtime.differential.table import Row

VERSIONS = {"runc": "1.1.5", "crun": "1.8.1"}
NAMES = ("ours", *VERSIONS)
BOTH, IN_EXEC, STARTER = (
    "In one configuration, and in an exec",
    "In an exec",
    "In each runtime's own starting configuration",
)
Reports = tuple[dict[str, str], ...]


@pytest.fixture(scope="module")
def runtimes() -> list[Peer]:
    found = [peers.ours()]
    for name, version in VERSIONS.items():
        peer = peers.find(name)
        if peer is None:
            pytest.skip(f"needs {name}, which is not installed")
        if peer.version() != version:
            pytest.skip(f"needs {name} {version}, which docs/runtime-differences.md is about; this is {peer.version()}")
        found.append(peer)
    return found


@pytest.fixture
def bundles(runtimes: list[Peer], tmp_path: Path, busybox_root: Path) -> Iterator[list[Bundle]]:
    parent = f"/wharf-differential-{os.getpid()}"
    made = []
    for peer in runtimes:
        (tmp_path / peer.name).mkdir()
        made.append(Bundle(peer, tmp_path / peer.name, busybox_root, parent))
    yield made
    left = [point + made[0].cgroup.rpartition("/")[0] for point in hierarchies().mount_points()]
    assert [entry for place in left if os.path.isdir(place) for entry in os.scandir(place) if entry.is_dir()] == []
    assert Cgroup(parent).remove(seconds=10)


def ours_by_default() -> dict[str, Any]:
    config = default_config(["true"], hostname="probe")
    config["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
    return config


def differences(reports: Reports) -> dict[str, tuple[str, ...]]:
    """What is not the same in all, with what each says."""
    seen = {what: tuple(report.get(what, table.ABSENT) for report in reports) for report in reports for what in report}
    return {what: values for what, values in sorted(seen.items()) if len(set(values)) > 1}


def unexplained(found: dict[str, tuple[str, ...]], rows: list[Row]) -> list[str]:
    lines = []
    for what, values in found.items():
        if not any(row.explains(what, values) for row in rows):
            lines.append(f"{what}: " + ", ".join(f"{name} {value!r}" for name, value in zip(NAMES, values, strict=True)))
    return lines


def idle(found: dict[str, tuple[str, ...]], rows: list[Row]) -> list[Row]:
    """Rows that explain nothing, where the whole table can be expected to."""
    if not (hierarchies().v1 and hierarchies().v2):
        return []
    return [row for row in rows if not any(row.explains(what, values) for what, values in found.items())]


def check(reports: Reports, *headings: str) -> None:
    found = differences(reports)
    assert unexplained(found, [row for heading in headings for row in table.rows(heading)]) == []
    assert idle(found, table.rows(headings[0])) == []


def test_the_first_process(bundles: list[Bundle]) -> None:
    check(tuple(bundle.report(ours_by_default()) for bundle in bundles), BOTH)


def test_an_exec(bundles: list[Bundle]) -> None:
    check(tuple(bundle.report_of_exec(ours_by_default()) for bundle in bundles), IN_EXEC, BOTH)


def test_what_spec_writes(bundles: list[Bundle]) -> None:
    check(tuple(bundle.report(bundle.starter()) for bundle in bundles), STARTER, BOTH)


LOOSER: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("a capability more", lambda config: config["process"]["capabilities"]["bounding"].append("CAP_MKNOD"), "status CapBnd"),
    ("no_new_privs off", lambda config: config["process"].update(noNewPrivileges=False), "status NoNewPrivs"),
    ("no filter", lambda config: config["linux"].pop("seccomp"), "status Seccomp"),
    ("nothing read-only", lambda config: config["linux"].pop("readonlyPaths"), "/proc/sys writable"),
    ("nothing masked", lambda config: config["linux"].pop("maskedPaths"), "/proc/keys"),
    ("more processes", lambda config: config["linux"]["resources"].pop("pids"), "/sys/fs/cgroup*/pids.max"),
    (
        "every device",
        lambda config: config["linux"]["resources"].update(devices=[{"allow": True, "access": "rwm"}]),
        "open fuse read",
    ),
    ("the host's ipc", lambda config: config["linux"]["namespaces"].remove({"type": "ipc"}), "namespace ipc"),
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, busybox_root: Path) -> dict[str, str]:
    return alone(tmp_path_factory.mktemp("strict"), busybox_root, ours_by_default())


def alone(directory: Path, busybox_root: Path, config: dict[str, Any]) -> dict[str, str]:
    """Under ours, without the system calls, which take longest."""
    parent = f"/wharf-differential-{os.getpid()}"
    try:
        return Bundle(peers.ours(), directory, busybox_root, parent, calls=[]).report(config)
    finally:
        assert Cgroup(parent).remove(seconds=10)


@pytest.mark.parametrize(("change", "what"), [case[1:] for case in LOOSER], ids=[case[0] for case in LOOSER])
def test_the_probe_sees_one_fence_less(
    tmp_path: Path, busybox_root: Path, strict: dict[str, str], change: Callable[[Any], Any], what: str
) -> None:
    """And the table does not explain it away."""
    config = ours_by_default()
    change(config)
    lines = unexplained(differences((alone(tmp_path, busybox_root, config), strict, strict)), table.rows(BOTH))
    assert any(table.like(what + ": *", line) for line in lines), lines
