"""The command line of an ordinary user: his own user namespace, his ranges, cgroups where they were given to him."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.cgroup import hierarchies
from tests.conformance.runtime.conftest import wait_for
from tests.conformance.runtime.ordinary import RANGE, Ordinary, reachable

BOTH = {"subuid": RANGE, "subgid": RANGE}
QUIET = {"stdout": None, "stderr": None}
helpers = pytest.mark.skipif(shutil.which("newuidmap") is None, reason="newuidmap is not installed (package uidmap)")


@pytest.fixture
def user(busybox_root: Path) -> Iterator[Ordinary]:
    if not reachable():
        pytest.skip("the interpreter lies in a directory that is closed to other users")
    made = Ordinary(busybox_root)
    try:
        yield made
    finally:
        if (made.runtime_dir / "wharf-runtime" / "box").exists():
            made("delete", "-f", "box", check=None)
        wait_for(lambda: made.pids() == [], "the end of his processes")
        made.close()


def started(user: Ordinary, *options: str) -> None:
    user(*options, "create", "box", stdout=-3, stderr=-3)
    user("start", "box")


def test_without_ranges_he_is_root_alone(user: Ordinary) -> None:
    script = "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; stat -c %u /; chown 1 / || true"
    user.configure("sh", "-c", script, starter=("--rootless",))
    lines = user("run", "box").splitlines()
    assert "no cgroup is delegated" in lines.pop(0)
    assert lines[0] == "0"
    assert [line.split() for line in lines[1:3]] == [["0", str(user.uid), "1"]] * 2
    assert lines[3:5] == ["deny", "0"]
    assert "Invalid argument" in lines[5] or "Read-only" in lines[5]
    assert list((user.runtime_dir / "wharf-runtime").iterdir()) == []


@helpers
def test_his_ranges_are_mapped_and_used(user: Ordinary) -> None:
    user.known(BOTH)
    user.configure("sh", "-c", "id; exec sleep 1000", user={"uid": 1000, "gid": 1000, "additionalGids": [20]})
    started(user)
    pid = json.loads(user("state", "box"))["pid"]
    assert os.stat(f"/proc/{pid}").st_uid == RANGE[0] + 999
    assert [line.split() for line in user("exec", "-u", "0", "box", "cat", "/proc/self/uid_map").splitlines()] == [
        ["0", str(user.uid), "1"], ["1", *map(str, RANGE)],
    ]  # fmt: skip
    assert user("exec", "box", "id").split()[1:] == ["gid=1000", "groups=20"]
    assert str(pid) in user("ps", "-f", "json", "box")
    user("kill", "box", "KILL")
    wait_for(lambda: json.loads(user("state", "box"))["status"] == "stopped", "the end")
    user("delete", "box")


def test_who_is_not_mapped_is_told_what_to_do(user: Ordinary) -> None:
    config = user.configure("id", user={"uid": 1000, "gid": 0})
    assert "/etc/subuid" in user("run", "box", check=1)
    config["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [20]}
    user.write(config)
    assert "additionalGids cannot be had" in user("run", "box", check=1)
    foreign = [{"containerID": 0, "hostID": 0, "size": 1}]
    config["process"]["user"] = {"uid": 0, "gid": 0}
    config["linux"].update({"uidMappings": foreign, "gidMappings": foreign})
    user.write(config)
    assert "/etc/subuid says which ids are yours" in user("run", "box", check=1)
    assert list((user.runtime_dir / "wharf-runtime").iterdir()) == []


def test_limits_and_cgroups_that_he_cannot_have_are_refused(user: Ordinary) -> None:
    config = user.configure("true")
    config["linux"]["resources"] = {"pids": {"limit": 10}}
    user.write(config)
    assert "cannot set pids limit: container could not join or create cgroup" in user("run", "box", check=1)
    config["linux"].update({"resources": {}, "cgroupsPath": "/wharf-of-somebody"})
    user.write(config)
    assert "permission denied" in user("run", "box", check=1)
    del config["linux"]["cgroupsPath"]
    user.write(config)
    assert "permission denied" in user("--rootless", "false", "run", "box", check=1)
    assert "no cgroup is delegated" in user("--rootless", "true", "run", "box")


def test_a_delegated_cgroup_limits_and_pauses(user: Ordinary) -> None:
    user.delegate()
    config = user.configure("sleep", "1000")
    config["linux"]["resources"] = {"pids": {"limit": 20}}
    user.write(config)
    started(user)
    place = f"{user.cgroup}/box"
    pid = json.loads(user("state", "box"))["pid"]
    assert place in Path(f"/proc/{pid}/cgroup").read_text()
    assert Path(f"{hierarchies().v1.get('pids') or hierarchies().v2}{place}/pids.max").read_text() == "20\n"
    assert user("exec", "box", "id", "-u").strip() == "0"
    user("pause", "box")
    assert json.loads(user("state", "box"))["status"] == "paused"
    user("resume", "box")
    user("update", "--pids-limit", "30", "box")
    assert Path(f"{hierarchies().v1.get('pids') or hierarchies().v2}{place}/pids.max").read_text() == "30\n"
    user("delete", "-f", "box")
    assert not any(os.path.exists(point + place) for point in hierarchies().mount_points())


def test_a_network_of_his_own_or_the_hosts(user: Ordinary) -> None:
    script = "readlink /proc/self/ns/net; ls /sys/class/net; touch /sys/x 2>&1 || true"
    config = user.configure("sh", "-c", script)
    lines = user("run", "box").splitlines()[1:]
    assert lines[0] != os.readlink("/proc/self/ns/net")
    assert lines[1] == "lo"
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
    user.write(config)
    lines = user("run", "box").splitlines()[1:]
    assert lines[0] == os.readlink("/proc/self/ns/net")
    assert set(lines[1:-1]) == set(os.listdir("/sys/class/net"))
    assert "Read-only" in lines[-1]


def test_an_overlay_in_his_namespace(user: Ordinary) -> None:
    for name in ("lower", "upper", "work"):
        (user.home / name).mkdir()
        os.chown(user.home / name, user.uid, user.uid)
    (user.home / "lower" / "below").write_text("below")
    options = [f"{kind}dir={user.home}/{kind}" for kind in ("lower", "upper", "work")] + ["userxattr"]
    config = user.configure("sh", "-c", "cat /stack/below; rm /stack/below; echo x > /stack/above; ls /stack")
    config["root"]["readonly"] = False
    config["mounts"].append({"destination": "/stack", "type": "overlay", "source": "overlay", "options": options})
    user.write(config)
    assert user("run", "box").splitlines()[1:] == ["belowabove"]
    assert (user.home / "upper" / "above").stat().st_uid == user.uid


def test_without_a_runtime_directory_states_lie_in_one_of_his_own(user: Ordinary) -> None:
    user.configure("true")
    where = Path(f"/tmp/wharf-runtime-{user.uid}")
    unset = {"XDG_RUNTIME_DIR": ""}
    user("run", "box", env=unset)
    try:
        assert (where.stat().st_uid, where.stat().st_mode & 0o077) == (user.uid, 0)
        where.rmdir()
        where.mkdir()  # of somebody else, who was faster
        assert "not a directory of your own" in user("run", "box", env=unset, check=1)
    finally:
        where.rmdir()
