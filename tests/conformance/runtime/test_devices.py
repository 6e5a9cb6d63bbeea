"""config-linux.md, devices and default devices: which there are, whose they are, and what stands in their way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import RuntimeFailed
from tests.conformance.runtime.conftest import Runner
from tests.conformance.runtime.test_userns import USERNS

KMSG = {"path": "/dev/k", "type": "c", "major": 1, "minor": 11}


def with_devices(*devices: dict[str, Any]) -> Any:
    return lambda config: config["linux"].update(devices=list(devices))


@pytest.mark.parametrize(
    ("device", "shown"),
    [
        (KMSG, "character special file 1:b 666 0:0"),
        ({**KMSG, "type": "u"}, "character special file 1:b 666 0:0"),
        ({**KMSG, "fileMode": 0o640, "uid": 3, "gid": 4}, "character special file 1:b 640 3:4"),
        ({**KMSG, "fileMode": 0}, "character special file 1:b 0 0:0"),
        ({**KMSG, "type": "b", "major": 7, "minor": 300}, "block special file 7:12c 666 0:0"),
        ({"path": "/dev/k", "type": "p", "fileMode": 0o622}, "fifo 0:0 622 0:0"),
        ({"path": "/dev/k", "type": "p", "major": 9, "minor": 9}, "fifo 0:0 666 0:0"),
    ],
)
def test_type_number_mode_and_owner(runner: Runner, device: dict[str, Any], shown: str) -> None:
    assert runner.run("stat", "-c", "%F %t:%T %a %u:%g", "/dev/k", change=with_devices(device)).output.strip() == shown


def test_below_a_directory_and_outside_dev(runner: Runner, rootfs: Path) -> None:
    change = with_devices({**KMSG, "path": "/dev/net/a/k"}, {**KMSG, "path": "/srv/k"})
    outcome = runner.sh("stat -c %F /dev/net/a/k /srv/k; stat -c %a /dev/net", root=rootfs, change=change)
    assert outcome.lines == ["character special file"] * 2 + ["755"]


def test_a_default_device_can_be_given_an_owner(runner: Runner) -> None:
    device = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 9, "gid": 9}
    assert runner.run("stat", "-c", "%a %u:%g", "/dev/null", change=with_devices(device)).output == "600 9:9\n"


def test_links_and_terminals(runner: Runner) -> None:
    names = ("fd", "stdin", "stdout", "stderr", "ptmx")
    shown = runner.sh(f"for n in {' '.join(names)}; do readlink /dev/$n; done; ls /dev/console").lines
    assert shown[:5] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert "No such file" in shown[5]
    assert runner.start("stat", "-c", "%F", "/dev/console", terminal=True).wait().output.strip() == "character special file"


def test_a_file_that_is_not_the_device_is_an_error(runner: Runner, rootfs: Path) -> None:
    (rootfs / "srv").mkdir()
    (rootfs / "srv/k").write_text("mine")
    with pytest.raises(RuntimeFailed, match="/srv/k"):
        runner.run("true", root=rootfs, change=with_devices({**KMSG, "path": "/srv/k"}))
    assert (rootfs / "srv/k").read_text() == "mine"


def test_a_file_that_is_the_device_will_do(runner: Runner, rootfs: Path) -> None:
    (rootfs / "srv").mkdir()
    os.mknod(rootfs / "srv/k", 0o020600, os.makedev(1, 11))
    change = with_devices({**KMSG, "path": "/srv/k", "fileMode": 0o644})
    assert runner.run("stat", "-c", "%t:%T", "/srv/k", root=rootfs, change=change).output == "1:b\n"


def test_in_a_user_namespace_the_hosts_node_is_shown(runner: Runner) -> None:
    """mknod is not its to call; the node is the host's, which has to have it."""
    kmsg = {**KMSG, "path": "/dev/kmsg"}
    assert runner.run("stat", "-c", "%t:%T", "/dev/kmsg", change=with_devices(kmsg), userns=USERNS).output == "1:b\n"
    with pytest.raises(RuntimeFailed, match="No such file or directory /dev/k"):
        runner.run("true", change=with_devices(KMSG), userns=USERNS)
