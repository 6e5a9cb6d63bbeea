"""One container under ours, runc and crun: every difference that its process sees is explained in docs/runtime-differences.md.

The tables are of one version of each peer, and of a node with cgroup v1 beside v2.
"""

from __future__ import annotations

import os
import tempfile
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
EVERYWHERE, IN_EXEC, WITH_USERS, STARTER = (
    "In one configuration",
    "In an exec",
    "In a user namespace",
    "In each runtime's own starting configuration",
)
TENANT = 200_000
Reports = tuple[dict[str, str], ...]


@pytest.fixture(scope="module")
def runtimes() -> list[Peer]:
    if not (hierarchies().v1 and hierarchies().v2):
        pytest.skip("needs cgroup v1 beside v2: docs/runtime-differences.md is about such a node")
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
def open_place() -> Iterator[Path]:
    """A directory that everybody may pass through, which pytest's are not: runc reaches a tenant's root as the tenant."""
    with tempfile.TemporaryDirectory(prefix="wharf-differential-") as made:
        os.chmod(made, 0o711)
        yield Path(made)


@pytest.fixture
def bundles(runtimes: list[Peer], open_place: Path, busybox_root: Path) -> Iterator[list[Bundle]]:
    parent = f"/wharf-differential-{os.getpid()}"
    made = []
    for peer in runtimes:
        (open_place / peer.name).mkdir()
        made.append(Bundle(peer, open_place / peer.name, busybox_root, parent))
    yield made
    left = [point + made[0].cgroup.rpartition("/")[0] for point in hierarchies().mount_points()]
    assert [entry for place in left if os.path.isdir(place) for entry in os.scandir(place) if entry.is_dir()] == []
    assert Cgroup(parent).remove(seconds=10)


def ours_by_default(**options: Any) -> dict[str, Any]:
    config = default_config(["true"], hostname="probe", **options)
    config["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
    return config


def for_a_plain_user(volume: Path) -> dict[str, Any]:
    """Something of every section that the default leaves empty."""
    config = ours_by_default(uid=1000, gid=1000, additional_gids=[5, 7], readonly_rootfs=True, cwd="/home")
    process, linux = config["process"], config["linux"]
    process["oomScoreAdj"] = 100
    process["user"]["umask"] = 0o27
    # NOFILE alike: Go raises its own soft limit when it starts, and at times runc's exec passes that on
    limits = (("NOFILE", 1000, 1000), ("MSGQUEUE", 512, 1000), ("CORE", 0, 0))
    process["rlimits"] = [{"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, soft, hard in limits]
    kinds = ("bounding", "permitted", "effective", "inheritable", "ambient")
    process["capabilities"] = {kind: ["CAP_NET_BIND_SERVICE", "CAP_KILL"] for kind in kinds}
    process["noNewPrivileges"] = False
    linux["resources"]["memory"] = {"limit": 1 << 28, "swap": 1 << 28}
    linux["resources"]["cpu"] = {"shares": 512, "quota": 50_000, "period": 100_000}
    linux["resources"]["devices"].append({"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"})
    fuse = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 1000, "gid": 5}
    linux["devices"] = [fuse]
    linux["sysctl"]["kernel.msgmax"] = "9000"
    linux["personality"] = {"domain": "LINUX"}
    config["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["nosuid", "size=1m", "mode=1777"]},
        {"destination": "/home", "type": "bind", "source": str(volume), "options": ["rbind", "ro", "nosuid"]},
    ]
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
    """Rows that explain nothing."""
    return [row for row in rows if not any(row.explains(what, values) for what, values in found.items())]


def check(reports: Reports, *headings: str) -> None:
    found = differences(reports)
    lines = unexplained(found, [row for heading in headings for row in table.rows(heading)])
    assert not lines, "no row explains\n" + "\n".join(lines)
    rest = idle(found, table.rows(headings[0]))
    assert not rest, "these rows explain nothing\n" + "\n".join(map(str, rest))


def test_the_first_process(bundles: list[Bundle]) -> None:
    check(tuple(bundle.report(ours_by_default()) for bundle in bundles), EVERYWHERE)


def test_an_exec(bundles: list[Bundle], tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    config = for_a_plain_user(tmp_path / "volume")
    check(tuple(bundle.report_of_exec(config) for bundle in bundles), IN_EXEC, EVERYWHERE)


def test_in_a_user_namespace(bundles: list[Bundle]) -> None:
    config = ours_by_default(userns=(TENANT, TENANT, 65_536))
    for bundle in bundles:
        for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
            os.chown(path, TENANT, TENANT, follow_symlinks=False)
    check(tuple(bundle.report(config) for bundle in bundles), WITH_USERS, EVERYWHERE)


def test_what_spec_writes(bundles: list[Bundle]) -> None:
    check(tuple(bundle.report(bundle.starter()) for bundle in bundles), STARTER, EVERYWHERE)


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
    lines = unexplained(differences((alone(tmp_path, busybox_root, config), strict, strict)), table.rows(EVERYWHERE))
    assert any(table.like(what + ": *", line) for line in lines), lines
