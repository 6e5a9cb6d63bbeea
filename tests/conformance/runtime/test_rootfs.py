"""Mounts, and root filesystems that try to get out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import caps
from agent.runtime import plan as plans
from agent.runtime.errors import ExecFailed, InvalidConfig, RuntimeFailed
from agent.sys.mount import Mount
from tests.conformance.runtime.conftest import PARENT, Runner


def with_mounts(*mounts: dict[str, Any]) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].extend(mounts)

    return change


def overlay_plan(runner: Runner, tmp_path: Path, *args: str, layers: int = 2, **options: Any) -> plans.Plan:
    lowers = []
    for number in range(layers):
        layer = tmp_path / ("l" * 200) / f"layer{number}"  # longer than a string of fsconfig may be
        layer.mkdir(parents=True)
        (layer / "which").write_text(str(number))
        (layer / f"only{number}").write_text("")
        lowers.append(f"lowerdir={layer}")
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    mounts = [
        Mount("overlay", "overlay", "", (*lowers, f"lowerdir={runner.root}", f"upperdir={upper}", f"workdir={work}")),
    ]
    return _plan(runner, mounts, *args, **options)


def _plan(runner: Runner, mounts: list[Mount], *args: str, **options: Any) -> plans.Plan:
    config = runner.plan(*args, **options).config
    return plans.compile(config, id=f"o{runner.count}", rootfs=mounts, cgroup_parent=PARENT)


@pytest.mark.parametrize("layers", [1, 130])
def test_overlay_of_many_layers(runner: Runner, tmp_path: Path, layers: int) -> None:
    plan = overlay_plan(runner, tmp_path, "sh", "-c", "cat /which; ls / | grep -c only; echo new > /written", layers=layers)
    outcome = runner.start_plan(plan).wait()
    assert outcome.output == f"0{layers}\n"
    assert (tmp_path / "upper/written").read_text() == "new\n"


def test_volume_read_write_and_read_only(runner: Runner, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    change = with_mounts(
        {"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]},
        {"destination": "/deep/er/ro", "type": "bind", "source": str(volume), "options": ["rbind", "ro", "nosuid"]},
    )
    outcome = runner.sh("echo hi > /data/f; cat /deep/er/ro/f; touch /deep/er/ro/g; ls -d /deep/er", change=change)
    assert outcome.lines[0] == "hi"
    assert "Read-only" in outcome.lines[1]
    assert (volume / "f").read_text() == "hi\n"


def test_recursive_read_only_covers_mounts_below(runner: Runner) -> None:
    for option, writable in (("rro", False), ("ro", True)):
        change = with_mounts({"destination": "/host-dev", "type": "bind", "source": "/dev", "options": ["rbind", option]})
        outcome = runner.sh("touch /host-dev/shm/wharf-test-rro && rm /host-dev/shm/wharf-test-rro && echo wrote", change=change)
        assert ("wrote" in outcome.output) is writable, option


def test_file_over_file(runner: Runner, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 me\n")
    change = with_mounts({"destination": "/etc/hosts", "type": "bind", "source": str(hosts), "options": ["bind", "ro"]})
    assert runner.sh("cat /etc/hosts; echo x > /etc/hosts", change=change).lines[0] == "127.0.0.1 me"


def test_propagation_default_is_private(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    change = with_mounts({"destination": "/v", "type": "bind", "source": str(tmp_path / "v"), "options": ["rbind"]})
    line = next(line for line in runner.run("cat", "/proc/self/mountinfo", change=change).lines if " /v " in line)
    assert "shared:" not in line
    assert "master:" not in line


def test_tmpfs_options_and_copy_up(runner: Runner, rootfs: Path) -> None:
    (rootfs / "var").mkdir()
    (rootfs / "var/kept").write_text("kept")
    tmpfs = {
        "destination": "/var",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["size=1m", "mode=1770", "tmpcopyup", "noexec"],
    }
    outcome = runner.sh("cat /var/kept; stat -c %a /var; grep ' /var ' /proc/mounts", root=rootfs, change=with_mounts(tmpfs))
    assert outcome.output.startswith("kept")
    assert "size=1024k" in outcome.output
    assert "noexec" in outcome.output


def test_mount_target_through_an_absolute_link_stays_inside(runner: Runner, rootfs: Path, tmp_path: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310: nothing is created or mounted on the host."""
    victim = tmp_path / "host-victim"
    victim.mkdir()
    (rootfs / "link").symlink_to(victim)
    os.makedirs(rootfs / str(victim).lstrip("/"))
    change = with_mounts({"destination": "/link/sub/dir", "type": "tmpfs", "source": "tmpfs"})
    assert runner.sh("grep -c /sub/dir /proc/mounts", root=rootfs, change=change).output == "1\n"
    assert list(victim.iterdir()) == []


def test_working_directory_is_made(runner: Runner, rootfs: Path) -> None:
    assert runner.run("pwd", root=rootfs, cwd="/srv/app").output == "/srv/app\n"


def test_root_cannot_be_left_by_chroot_tricks(runner: Runner) -> None:
    """The old root is gone, not merely hidden."""
    script = "cd /; cat /proc/self/mountinfo | wc -l; ls /../../../work /../../../usr 2>&1 | grep -c 'No such'"
    assert runner.sh(script).lines[1] == "2"


def test_no_pivot_still_hides_the_host(runner: Runner, busybox_root: Path) -> None:
    from agent.runtime import container
    from agent.runtime.cgroup import Cgroup

    plan = runner.plan("ls", "/")
    reader, writer = os.pipe()
    init = container.create(plan, container.Stdio(0, writer, writer), pivot=False)
    init.start()
    os.close(writer)
    os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED)
    with os.fdopen(reader) as output:
        assert "bin\n" in (text := output.read())
    assert "usr" not in text
    os.close(init.pidfd)
    assert Cgroup(plan.cgroup_path).remove(seconds=10)


def test_missing_program_is_127_and_a_plain_file_126(runner: Runner) -> None:
    with pytest.raises(ExecFailed) as missing:
        runner.run("no-such-program")
    assert (missing.value.extra["exit_code"], missing.value.code) == (127, "exec_failed")
    with pytest.raises(ExecFailed) as plain:
        runner.run("/etc/passwd")
    assert plain.value.extra["exit_code"] == 126
    with pytest.raises(ExecFailed) as directory:
        runner.run("/etc")
    assert directory.value.extra["exit_code"] == 126


def test_failed_mount_leaves_nothing(runner: Runner) -> None:
    with pytest.raises(RuntimeFailed) as error:
        runner.run("true", change=with_mounts({"destination": "/x", "type": "bind", "source": "/no/such/source"}))
    assert error.value.extra["stage"] == "rootfs"
    assert error.value.extra["errno"] == 2
    assert "/no/such/source" in error.value.detail


def test_unknown_capability_is_an_error() -> None:
    with pytest.raises(InvalidConfig, match="CAP_NOPE"):
        caps.mask(["CAP_NOPE"])


def test_environment_and_home(runner: Runner) -> None:
    outcome = runner.sh("echo $HOME $A; echo $PATH", env=["A=b c", "PATH=/bin"], uid=1000, gid=1000)
    assert outcome.lines == ["/home/alice b c", "/bin"]
