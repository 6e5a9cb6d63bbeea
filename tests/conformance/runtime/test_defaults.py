"""Each default fence, and the same probe with that one fence taken away: it must then find the hole, or it would prove nothing.

Capabilities: cve/test_cve_2022_29162. Landlock: test_landlock. Descriptors: cve/test_cve_2024_21626.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.defaults import MASKED_PATHS, PIDS_LIMIT, READONLY_PATHS, masked_paths
from agent.sys import nr, process
from tests.conformance.runtime.conftest import Outcome, Runner
from tests.conformance.runtime.cve import attacker


def without(*keys: str) -> Any:
    """Delete linux.<key> of the default configuration."""

    def change(config: dict[str, Any]) -> None:
        for key in keys:
            del config["linux"][key]

    return change


def init_and_exec(runner: Runner, script: str, change: Any = None, **options: Any) -> list[Outcome]:
    """The probe as the container's first process and as an exec."""
    running = runner.start("sleep", "1000", change=change, **options)
    return [runner.sh(script, change=change, **options), running.exec("sh", "-c", script)]


def test_the_lists_are_golden() -> None:
    proc = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"
    assert set(MASKED_PATHS) == {*(f"/proc/{word}" for word in proc.split()), "/sys/firmware", "/sys/devices/virtual/powercap"}
    assert set(READONLY_PATHS) == {f"/proc/{word}" for word in ["bus", "fs", "irq", "sys", "sysrq-trigger"]}
    throttles = [path for path in masked_paths() if path.endswith("/thermal_throttle")]
    assert set(masked_paths()) == {*MASKED_PATHS, *throttles}


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup"])
def test_each_namespace_is_the_containers_own(runner: Runner, kind: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].remove({"type": kind})
        config["linux"].pop("sysctl")
        del config["hostname"]

    name = {"network": "net"}.get(kind, kind)
    host = os.readlink(f"/proc/self/ns/{name}")
    script = f"readlink /proc/self/ns/{name}"
    assert host not in [outcome.output.strip() for outcome in init_and_exec(runner, script)]
    assert [outcome.output.strip() for outcome in init_and_exec(runner, script, change)] == [host] * 2


READ_MASKED = "for path in {}; do if [ -d $path ]; then ls -A $path; else head -c 20 $path; fi; done | wc -c"


def test_masked_paths_show_nothing(runner: Runner) -> None:
    there = [path for path in masked_paths() if os.path.exists(path) and path != "/proc/kcore"]  # which is too big to read
    script = READ_MASKED.format(" ".join(there))
    assert [outcome.output for outcome in init_and_exec(runner, script)] == ["0\n"] * 2
    for outcome in init_and_exec(runner, script, without("maskedPaths")):
        assert int(outcome.output) > 20


def test_masked_directories_share_one_empty_filesystem_that_is_read_only(runner: Runner) -> None:
    there = [path for path in masked_paths() if os.path.isdir(path)]
    assert there
    lines = runner.run("cat", "/proc/self/mountinfo").lines
    masks = [line.split() for line in lines if line.split()[4] in there]
    assert {fields[4] for fields in masks} == set(there)
    assert len({fields[2] for fields in masks}) == 1  # one superblock
    assert all({"ro", "nosuid", "nodev", "noexec"} <= set(fields[5].split(",")) for fields in masks)


def test_masked_files_can_be_nothing_but_the_null_device(runner: Runner) -> None:
    there = [path for path in masked_paths() if os.path.isfile(path)]
    lines = runner.run("cat", "/proc/self/mountinfo").lines
    masks = [line.split() for line in lines if line.split()[4] in there]
    assert {fields[4] for fields in masks} == set(there) != set()
    assert all({"ro", "nosuid", "noexec"} <= set(fields[5].split(",")) for fields in masks)


def test_read_only_paths_cannot_be_written(runner: Runner) -> None:
    """A sysctl of the container's own ipc namespace, so that the probe changes nothing else."""
    script = "echo 8193 > /proc/sys/kernel/msgmax && echo written"
    for outcome in init_and_exec(runner, script):
        assert "Read-only" in outcome.output
        assert "written" not in outcome.output
    assert [outcome.output for outcome in init_and_exec(runner, script, without("readonlyPaths"))] == ["written\n"] * 2


def test_read_only_paths_are_each_a_read_only_mount(runner: Runner) -> None:
    there = [path for path in READONLY_PATHS if os.path.exists(path)]
    points = {line.split()[4]: line.split()[5].split(",") for line in runner.run("cat", "/proc/self/mountinfo").lines}
    for path in there:
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(points[path]), path  # procfs's own flags are kept


def test_the_filter_refuses_a_new_user_namespace(runner: Runner) -> None:
    script = "unshare -U true && echo made"
    for outcome in init_and_exec(runner, script):
        assert "not permitted" in outcome.output
    assert [outcome.output for outcome in init_and_exec(runner, script, without("seccomp"))] == ["made\n"] * 2


def test_no_new_privileges_disarms_setuid_programs(runner: Runner, rootfs: Path) -> None:
    program = rootfs / "bin/raise"
    shutil.copy(attacker.PROGRAM, program)
    program.chmod(0o4755)
    script = "raise -I -S -c 'import os; print(os.geteuid())'"

    def change(on: bool) -> Any:
        def edit(config: dict[str, Any]) -> None:
            attacker.show_python(config)
            config["process"]["noNewPrivileges"] = on

        return edit

    for on, expected in ((True, "1000\n"), (False, "0\n")):
        outcomes = init_and_exec(runner, script, change(on), root=rootfs, uid=1000, gid=1000)
        assert [outcome.output for outcome in outcomes] == [expected] * 2


def test_the_number_of_processes_is_limited(runner: Runner) -> None:
    """The limit as it stands, and one that can be reached without loading this machine."""
    running = runner.start("sleep", "1000")
    assert PIDS_LIMIT == 4096
    limit = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
    assert running.exec("sh", "-c", limit).output == "4096\n"

    def change(value: int | None) -> Any:
        def edit(config: dict[str, Any]) -> None:
            config["linux"]["resources"]["pids"] = {"limit": value} if value else {}

        return edit

    script = "for n in 1 2 3 4 5 6; do sleep 0.1 & done; wait; echo end"
    assert "can't fork" in runner.sh(script, change=change(4)).output
    assert runner.sh(script, change=change(-1)).output == "end\n"


def test_with_a_user_namespace_root_inside_owns_nothing_outside(runner: Runner, tmp_path: Path) -> None:
    """What root writes into a volume belongs to the tenant's range; without the namespace it is the host's root's."""
    volume = tmp_path / "volume"
    for name, userns in (("plain", None), ("mapped", (200_000, 200_000, 65_536))):
        (volume / name).mkdir(parents=True)
        (volume / name).chmod(0o777)

        def change(config: dict[str, Any], name: str = name) -> None:
            config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume / name), "options": ["bind"]})

        running = runner.start("sh", "-c", "touch /v/made; echo up; sleep 1000", userns=userns, change=change)
        assert running.read_line() == "up"
        owner = 200_000 if userns else 0
        assert (volume / name / "made").stat().st_uid == owner
        assert os.stat(f"/proc/{running.init.pid}").st_uid == owner


def test_a_tenants_root_cannot_change_what_the_hosts_root_owns(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("as it was")

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/tmp", "type": "bind", "source": str(tmp_path), "options": ["bind"]})

    tmp_path.chmod(0o755)
    assert "denied" in runner.sh("echo no > /tmp/mine", userns=(200_000, 200_000, 65_536), change=change).output
    assert runner.sh("echo yes > /tmp/mine", change=change).output == ""
    assert (tmp_path / "mine").read_text() == "yes\n"


KEYCTL = 250
KEYS = """
import ctypes
libc, text = ctypes.CDLL(None), ctypes.create_string_buffer(200)
libc.syscall(250, 6, -3, text, 200, 0)  # KEYCTL_DESCRIBE the session keyring
print(text.value.decode().rpartition(";")[2], libc.syscall(250, 10, -3, b"user", b"secret", 0))  # KEYCTL_SEARCH
"""


@pytest.mark.skipif(nr.MACHINE != "x86_64", reason="the probe has x86_64's number of keyctl")
@pytest.mark.parametrize("naive", [False, True])
def test_the_session_keyring_is_new(runner: Runner, rootfs: Path, monkeypatch: pytest.MonkeyPatch, naive: bool) -> None:
    """Neither that of whoever starts the process, where a key lies, nor one that has a name to be found by."""

    def change(config: dict[str, Any]) -> None:
        attacker.show_python(config)
        del config["linux"]["seccomp"]

    if naive:
        monkeypatch.setattr(process, "new_session_keyring", lambda: None)
    call = ctypes.CDLL(None).syscall
    assert call(KEYCTL, 1, b"wharf-test") > 0  # KEYCTL_JOIN_SESSION_KEYRING: this process keeps it
    key = call(248, b"user", b"secret", b"x", 1, -3)  # add_key
    assert key > 0
    try:
        outcomes = init_and_exec(runner, f"{attacker.PROGRAM} -I -S -c '{KEYS}'", change, root=rootfs)
    finally:
        call(KEYCTL, 9, key, -3)  # KEYCTL_UNLINK
    for outcome in outcomes:
        name, found = outcome.output.split()
        assert (int(found) > 0) is naive, outcome.output
        assert (name == "_ses") is not naive


def test_devices_that_were_not_given_cannot_be_opened(runner: Runner, rootfs: Path) -> None:
    """Made by root of the host in the image; the controller, not the lack of a node, refuses."""
    os.mknod(rootfs / "disk", 0o060666, os.makedev(7, 255))
    os.mknod(rootfs / "mem", 0o020666, os.makedev(1, 1))
    script = "for n in disk mem; do head -c 1 /$n >/dev/null; done; head -c 1 /dev/zero | wc -c"
    lines = runner.sh(script, root=rootfs).lines
    assert [line.rpartition(": ")[2] for line in lines] == ["Operation not permitted"] * 2 + ["1"]

    def allowed(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
        for kind in ("bounding", "permitted", "effective"):
            config["process"]["capabilities"][kind].append("CAP_SYS_RAWIO")

    assert "Operation not permitted" not in runner.sh(script, root=rootfs, change=allowed).lines[0]


def test_killing_the_first_process_ends_all(runner: Runner) -> None:
    running = runner.start("sh", "-c", "sleep 1000 & sleep 1000 & echo up; wait")
    running.read_line()
    assert len(running.cgroup.pids()) == 3
    signal.pidfd_send_signal(running.init.pidfd, signal.SIGKILL)
    assert running.wait().status == 128 + signal.SIGKILL
    assert running.cgroup.pids() == []
