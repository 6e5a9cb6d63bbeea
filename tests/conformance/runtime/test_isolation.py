"""Each namespace keeps its container apart; the defaults are exact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps
from agent.runtime.defaults import CAPABILITIES
from tests.conformance.runtime.conftest import Runner

NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup")


def test_every_namespace_is_its_own(runner: Runner) -> None:
    seen = runner.sh("cd /proc/self/ns; for n in mnt pid net uts ipc cgroup user; do echo $n $(readlink $n); done").lines
    inside = dict(line.split() for line in seen)
    for name in NAMESPACES:
        assert inside[name] != os.readlink(f"/proc/self/ns/{name}"), name
    assert inside["user"] == os.readlink("/proc/self/ns/user")


def test_program_is_pid_one_and_sees_nobody_else(runner: Runner) -> None:
    outcome = runner.sh("echo $$; ls /proc | grep -c '^[0-9]'")
    assert outcome.lines[0] == "1"
    assert int(outcome.lines[1]) <= 3  # itself, ls, grep


def test_hostname_is_set_inside_only(runner: Runner) -> None:
    before = os.uname().nodename
    assert runner.run("hostname", hostname="berth-7").output == "berth-7\n"
    assert os.uname().nodename == before


def test_new_network_has_only_loopback(runner: Runner) -> None:
    assert runner.sh("ls /sys/class/net").output.split() == ["lo"]


def test_mounts_inside_do_not_reach_the_host(runner: Runner) -> None:
    outcome = runner.sh("mount -t tmpfs x /tmp && echo made", privileged=True, capabilities=caps.NAMES)
    assert outcome.output == "made\n"  # the runner's leak check compares the host's mounts


def test_cgroup_namespace_shows_the_container_as_root(runner: Runner) -> None:
    lines = runner.run("cat", "/proc/self/cgroup").lines
    assert lines
    assert all(line.endswith(":/") for line in lines), lines


def test_own_cgroup_is_visible_and_read_only(runner: Runner) -> None:
    point = "/sys/fs/cgroup/pids" if os.path.isdir("/sys/fs/cgroup/pids") else "/sys/fs/cgroup"
    outcome = runner.sh(f"cat {point}/cgroup.procs; mkdir {point}/x", capabilities=caps.NAMES)
    assert outcome.lines[0] == "1"
    assert "Read-only" in outcome.output


def test_other_user_has_no_effective_capability_but_the_bounding_set(runner: Runner) -> None:
    lines = runner.sh("id; grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status", uid=1000, gid=1000, additional_gids=[5, 7]).lines
    assert lines[0] == "uid=1000(alice) gid=1000 groups=5,7"
    values = [int(line.split()[1], 16) for line in lines[1:]]
    assert values == [0, 0, caps.mask(CAPABILITIES)]


def test_ambient_capabilities_reach_a_plain_user(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        names = ["CAP_NET_BIND_SERVICE"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "permitted", "inheritable", "effective", "ambient"), names)

    outcome = runner.run("grep", "-E", "Cap(Eff|Amb)", "/proc/self/status", uid=1000, gid=1000, change=change)
    assert [int(line.split()[1], 16) for line in outcome.lines] == [1 << 10, 1 << 10]


def test_no_new_privileges_and_a_filter_are_on(runner: Runner) -> None:
    lines = runner.run("grep", "-E", "NoNewPrivs|Seccomp:", "/proc/self/status").lines
    assert [line.split()[1] for line in lines] == ["1", "2"]


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_filter_loads_with_and_without_no_new_privileges(runner: Runner, no_new_privs: bool) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = no_new_privs

    lines = runner.sh("grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; unshare -U true", change=change).lines
    assert lines[0].split()[1] == f"{caps.mask(CAPABILITIES):016x}"  # SYS_ADMIN, held for loading, is gone
    assert [line.split()[1] for line in lines[1:3]] == [str(int(no_new_privs)), "2"]
    assert "not permitted" in lines[3]


def test_privileged_has_no_filter(runner: Runner) -> None:
    assert runner.run("grep", "Seccomp:", "/proc/self/status", privileged=True, capabilities=caps.NAMES).output.split()[1] == "0"


def test_descriptors_are_exactly_three(runner: Runner) -> None:
    spare = [os.open("/", os.O_RDONLY) for _ in range(3)]
    inheritable = os.dup(spare[0])
    os.set_inheritable(inheritable, True)
    try:
        # the shell's own glob opens one descriptor more, for the directory
        seen = runner.sh("echo /proc/1/fd/*").output.split()
        assert [name.rpartition("/")[2] for name in seen if not name.endswith(("/3", "/10"))] == ["0", "1", "2"]
        listed = runner.run("ls", "/proc/self/fd").output.split()
        assert listed == ["0", "1", "2", "3"]  # 3 is the directory being listed
    finally:
        for fd in [*spare, inheritable]:
            os.close(fd)


def test_dev_is_exact(runner: Runner) -> None:
    names = runner.run("ls", "/dev").output.split()
    assert names == [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    ]  # fmt: skip
    kinds = runner.sh("stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty").lines
    assert kinds == [
        f"/dev/{name} character special file {major}:{minor} 666"
        for name, major, minor in (
            ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
        )
    ]  # fmt: skip


def test_masked_directories_cannot_be_written(runner: Runner) -> None:
    assert "Read-only" in runner.run("touch", "/sys/firmware/x").output


def test_sysfs_is_read_only(runner: Runner) -> None:
    assert "Read-only" in runner.sh("echo 1 > /sys/kernel/profiling || mkdir /sys/x", capabilities=caps.NAMES).output


def test_read_only_root(runner: Runner) -> None:
    outcome = runner.sh("touch /x; touch /dev/shm/y && echo shm", readonly_rootfs=True)
    assert "Read-only" in outcome.lines[0]
    assert outcome.lines[1] == "shm"


def test_shared_memory_is_noexec_nosuid(runner: Runner) -> None:
    options = next(line for line in runner.run("cat", "/proc/mounts").lines if " /dev/shm " in line).split()[3].split(",")
    assert {"nosuid", "nodev", "noexec"} <= set(options)


def test_sysctls_are_the_containers_own(runner: Runner) -> None:
    name = "net.ipv4.ip_unprivileged_port_start"
    before = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    assert runner.run("cat", f"/proc/sys/{name.replace('.', '/')}").output == "0\n"
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == before


def test_ping_sockets_are_open_to_every_group(runner: Runner) -> None:
    assert runner.run("cat", "/proc/sys/net/ipv4/ping_group_range").output.split() == ["0", "2147483647"]


def test_loopback_is_up(runner: Runner) -> None:
    assert "inet 127.0.0.1/8" in runner.run("ip", "addr", "show", "lo").output


def test_joins_a_network_namespace_by_path(runner: Runner) -> None:
    holder = runner.start("sleep", "1000")
    path = f"/proc/{holder.init.pid}/ns/net"
    assert runner.run("readlink", "/proc/self/ns/net", network=path).output.strip() == os.readlink(path)


def test_joins_the_pid_namespace_of_another(runner: Runner) -> None:
    holder = runner.start("sleep", "1000")

    def change(config: dict[str, Any]) -> None:
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == "pid":
                entry["path"] = f"/proc/{holder.init.pid}/ns/pid"

    outcome = runner.sh("echo $$; ps", change=change)
    assert outcome.lines[0] != "1"
    assert "sleep 1000" in outcome.output


def test_host_network_when_asked(runner: Runner) -> None:
    assert runner.run("readlink", "/proc/self/ns/net", network=None).output.strip() == os.readlink("/proc/self/ns/net")


def test_time_namespace_offsets(runner: Runner) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}}

    host = float(Path("/proc/uptime").read_text().split()[0])
    inside = float(runner.run("cat", "/proc/uptime", change=change).output.split()[0])
    assert inside > host + 999_000
