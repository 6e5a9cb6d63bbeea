"""CVE-2020-15257: a container in the host's network connects to an abstract socket, which no directory guards."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from tests.conformance.runtime.conftest import Runner
from tests.integration.agent.supervisor.home import Home, make_rootfs


def abstract_sockets(runner: Runner) -> dict[str, str]:
    """Name by inode, as a container in the host's network sees them."""
    lines = runner.run("cat", "/proc/net/unix", network=None).lines[1:]
    return {
        line.split()[6]: line.split(None, 7)[7] for line in lines if len(line.split()) > 7 and line.split()[7].startswith("@")
    }


def inodes(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def test_the_probe_sees_an_abstract_socket(runner: Runner) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0wharf-probe-{os.getpid()}")
        server.listen()
        seen = abstract_sockets(runner)
        assert inodes(os.getpid()) & set(seen)
    assert f"@wharf-probe-{os.getpid()}" in seen.values()


async def test_the_supervisor_has_none_and_its_directory_is_closed(runner: Runner, tmp_path: Path) -> None:
    home = Home(tmp_path, make_rootfs(tmp_path / "rootfs"))
    await home.open()
    try:
        await home.sh("c1", "sleep 600")
        own = inodes(home.supervisor)
        assert own, "no socket at all: nothing was proved"
        assert not own & set(abstract_sockets(runner))
        info = os.stat(home.rundir)
        assert stat.S_IMODE(info.st_mode) == 0o700
        sockets = [path for path in Path(home.rundir).iterdir() if path.is_socket()]
        assert sockets
    finally:
        await home.close()
