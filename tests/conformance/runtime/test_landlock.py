"""The lock holds by itself: each probe runs without the other fences, once unlocked, where it must succeed, and once locked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps, lock
from agent.runtime import plan as plans
from agent.runtime.defaults import CAPABILITIES, default_config
from agent.runtime.errors import InvalidConfig
from agent.sys import landlock
from tests.conformance.runtime.conftest import Outcome, Runner

pytestmark = pytest.mark.skipif(landlock.abi() < lock.OLDEST, reason="the kernel has no Landlock, or one that forbids renames")
needs_scopes = pytest.mark.skipif(landlock.abi() < 6, reason="Landlock has scopes since Linux 6.12")
needs_ioctl = pytest.mark.skipif(landlock.abi() < 5, reason="Landlock knows ioctl since Linux 6.10")

ALMOST_ALL = tuple(name for name in caps.NAMES if name != "CAP_MKNOD")


def bare(wish: str, *, without: tuple[str, ...] = (), names: tuple[str, ...] = ALMOST_ALL) -> Any:
    """No filter, no read-only or masked path, (almost) every capability: only Landlock is left to refuse."""

    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {lock.ANNOTATION: wish}
        linux = config["linux"]
        del linux["seccomp"]
        linux["maskedPaths"] = linux["readonlyPaths"] = []
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] not in without]
        linux["sysctl"] = {}
        config["process"]["capabilities"] = {kind: list(names) for kind in ("bounding", "permitted", "effective")}

    return change


def both(runner: Runner, script: str, **options: Any) -> tuple[Outcome, Outcome]:
    """Unlocked, locked."""
    return runner.sh(script, change=bare("off", **options)), runner.sh(script, change=bare("on", **options))


def test_the_default_is_locked_and_loses_it_with_rights_that_need_more() -> None:
    def lock_of(**options: Any) -> lock.Lock | None:
        return plans.compile(
            default_config(["true"], **options), id="x", rootfs=[plans.Mount("bind", "/x", "", ())], cgroup_parent="/x"
        ).lock

    default = lock_of()
    assert default is not None
    assert (default.devices, default.scoped) == (False, 0)
    host = lock_of(network=None, capabilities=(*CAPABILITIES, "CAP_MKNOD"))
    assert host is not None
    assert (host.devices, host.scoped) == (True, landlock.SCOPE_ABSTRACT_UNIX_SOCKET)
    assert lock_of(privileged=True, capabilities=caps.NAMES) is None
    for name in ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"):
        assert lock_of(capabilities=(*CAPABILITIES, name)) is None


def test_wishes_are_checked() -> None:
    config = default_config(["true"])
    config["annotations"] = {lock.ANNOTATION: "yes"}
    with pytest.raises(InvalidConfig, match="on or off"):
        lock.of(config)


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs x /tmp && echo done",
        "mount -o remount,rw /sys && echo done",
        "umount /dev/shm && echo done",
        "unshare -m mount -t tmpfs x /tmp && echo done",
    ],
)
def test_nothing_is_mounted(runner: Runner, script: str) -> None:
    unlocked, locked = both(runner, script)
    assert unlocked.output == "done\n"
    assert "done" not in locked.output
    assert re.search("not permitted|permission denied", locked.output)


def test_no_device_is_made(runner: Runner, rootfs: Path) -> None:
    script = "mknod /made c 1 3 && echo char; mknod /made2 b 7 0 && echo block; mknod /pipe p && echo pipe"
    options = {"names": caps.NAMES}
    unlocked = runner.sh(script, root=rootfs, change=bare("off", **options))
    for name in ("made", "made2", "pipe"):
        (rootfs / name).unlink()
    locked = runner.sh(script, root=rootfs, change=locked_without_mknod_right)
    assert unlocked.output == "char\nblock\npipe\n"
    assert locked.lines[-1] == "pipe"
    assert "char" not in locked.lines
    assert "block" not in locked.lines
    assert locked.output.count("Permission denied") == 2, locked.output


def locked_without_mknod_right(config: dict[str, Any]) -> None:
    """CAP_MKNOD is held, so that only the lock refuses; the bounding set, which the lock goes by, lacks it."""
    bare("on")(config)
    for kind in ("permitted", "effective"):
        config["process"]["capabilities"][kind] = list(caps.NAMES)


@needs_ioctl
def test_devices_outside_dev_take_no_commands(runner: Runner, rootfs: Path) -> None:
    def change(wish: str) -> Any:
        def edit(config: dict[str, Any]) -> None:
            bare(wish)(config)
            config["process"]["consoleSize"] = {"height": 5, "width": 9}
            config["linux"]["devices"] = [{"path": "/terminal", "type": "c", "major": 5, "minor": 0}]

        return edit

    script = "stty size < /terminal; stty size < /dev/tty; stty size"
    assert runner.sh(script, root=rootfs, terminal=True, change=change("off")).lines == ["5 9"] * 3
    locked = runner.sh(script, root=rootfs, terminal=True, change=change("on")).lines
    assert "denied" in locked[0]
    assert locked[1:] == ["5 9"] * 2


def test_ordinary_work_goes_on(runner: Runner, rootfs: Path) -> None:
    script = (
        "mkdir -p /a /b; echo x > /a/f && mv /a/f /b/g && ln /b/g /a/h && ln -s /b/g /a/l && cat /a/l && rm -r /a /b;"
        " echo y > /dev/null; head -c 1 /dev/zero | wc -c; mknod /p p && rm /p; echo again > /dev/stdout; touch /root-file"
    )
    plain = runner.sh(script, root=rootfs, change=lambda config: config["annotations"].clear())
    assert plain.lines == ["x", "1", "again"]
    assert runner.sh(script, root=rootfs).output == plain.output


def test_init_cannot_look_into_an_exec_but_an_exec_into_init(runner: Runner) -> None:
    """CVE-2016-9962 as a class: an exec's memory, environment and descriptors are closed to the container's own processes."""
    look = "p=/proc/$(cat /dev/shm/pid); for n in exe fd/0 root; do readlink $p/$n >/dev/null || echo closed; done"
    for wish, expected in (("off", []), ("on", ["closed"] * 3)):
        running = runner.start("sh", "-c", f"while [ ! -e /dev/shm/go ]; do sleep 0.01; done; {look}", change=bare(wish))
        # the program that sleeps on is the exec's child; its name is complete before init is told
        outcome = running.exec(
            "sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $! > /dev/shm/pid; touch /dev/shm/go; readlink /proc/1/exe"
        )
        assert outcome.output == "/bin/busybox\n"
        assert running.wait().lines == expected, wish


@needs_scopes
def test_abstract_sockets_of_the_host_are_out_of_reach(runner: Runner, rootfs: Path) -> None:
    """CVE-2020-15257 in a container that shares the host's network."""
    name = f"wharf-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        for wish, expected in (("off", "reached"), ("on", "refused")):
            assert connects(runner, rootfs, name, wish) == expected


def connects(runner: Runner, rootfs: Path, name: str, wish: str) -> str:
    """busybox has no client for abstract sockets: the host's Python is shown to the container."""
    code = (
        "import socket\ns = socket.socket(socket.AF_UNIX)\n"
        f"try:\n s.connect('\\0{name}')\n print('reached')\nexcept PermissionError:\n print('refused')"
    )
    prefix = Path(sys.base_prefix)
    host = {path for path in ("/usr", "/lib", "/lib64", str(prefix)) if os.path.isdir(path)}

    def change(config: dict[str, Any]) -> None:
        bare(wish, without=("network",))(config)
        config["mounts"] += [
            {"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]}
            for path in sorted(host)
        ]

    program = os.path.realpath(sys.executable)
    return runner.run(program, "-I", "-S", "-c", code, root=rootfs, change=change).output.strip()


@needs_scopes
def test_processes_of_the_host_get_no_signals(runner: Runner) -> None:
    victim = subprocess.Popen(["sleep", "1000"])
    try:
        script = f"kill -USR1 {victim.pid} && echo hit"
        refused = runner.sh(script, change=bare("on", without=("pid",)))
        assert "hit" not in refused.output
        assert "not permitted" in refused.output
        assert runner.sh(script, change=bare("off", without=("pid",))).output == "hit\n"
        assert victim.wait(20) == -signal.SIGUSR1
    finally:
        victim.kill()
        victim.wait()


def test_features_tell_the_version() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "agent.runtime.cli", "features"], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert json.loads(shown.stdout)["annotations"][f"{lock.ANNOTATION}.abi"] == str(landlock.abi())
