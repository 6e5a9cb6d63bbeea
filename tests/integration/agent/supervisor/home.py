"""A supervisor over real containers, in directories and cgroups of its own; and what a test looks at."""

from __future__ import annotations

import asyncio
import glob
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.runtime.cgroup import hierarchies
from agent.runtime.defaults import default_config
from agent.supervisor.client import Supervisor
from agent.supervisor.ledger import Ledger
from agent.supervisor.processes import start_time
from agent.sys.mount import Mount
from tests.pace import patience

APPLETS = ("sh", "cat", "sleep", "echo", "true", "head", "tail", "seq", "dd", "printf", "stty", "test", "usleep")
RELEASE = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2])
DEADLINE = patience(30.0)  # s
_numbers = itertools.count()


def make_rootfs(path: Path) -> Path:
    """A root filesystem from Debian's static busybox."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    return path


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition is true, and return its value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE} s in vain until {what}"
        await asyncio.sleep(0.01)
    return value


class Home:
    """`client` is connected to a supervisor that is started anew whenever it is found dead."""

    def __init__(self, path: Path, rootfs: Path) -> None:
        self.rundir = str(path / "run")
        self.statedir = str(path / "state")
        self.cgroup_parent = f"/wharf-supervisor-{os.getpid()}-{next(_numbers)}"
        self.rootfs_path = rootfs
        self.rootfs = [Mount("bind", str(rootfs), "", ("rbind",))]
        self.client: Supervisor
        self.supervisor = 0  # the latest pid that we saw

    async def open(self, **more: Any) -> Supervisor:
        self.client = await Supervisor.ensure(self.rundir, self.statedir, self.cgroup_parent, **more)
        await self.pid()
        return self.client

    async def pid(self) -> int:
        """Of the supervisor."""
        self.supervisor = int((await self.client.hello())["pid"])
        return self.supervisor

    async def run(self, id_: str, *args: str, config: dict[str, Any] | None = None, **more: Any) -> int:
        """Create and start; the pid."""
        await self.make(id_, *args, config=config, **more)
        return await self.client.start(id_)

    async def make(self, id_: str, *args: str, config: dict[str, Any] | None = None, **more: Any) -> None:
        await self.client.create(id_, config or default_config(list(args)), self.rootfs, **more)

    async def sh(self, id_: str, script: str, **more: Any) -> int:
        return await self.run(id_, "sh", "-c", script, **more)

    async def crash(self) -> None:
        """kill -9 of the supervisor; returns when the client has found, or started, another one."""
        instance = self.client.instance
        os.kill(self.supervisor, signal.SIGKILL)
        await until(lambda: self.client.instance != instance, "another supervisor is there")
        await self.pid()

    def lines(self, id_: str, stream: str = "stdout") -> list[dict[str, Any]]:
        """Log entries, oldest first, rotated files included."""
        base = f"{self.statedir}/{id_}/logs/json.log"
        files = [*sorted(glob.glob(base + ".*"), key=lambda name: -int(name.rsplit(".", 1)[1])), base]
        # what stands after the last newline is being written
        entries = [json.loads(line) for name in files for line in Path(name).read_bytes().split(b"\n")[:-1]]
        return [entry for entry in entries if entry["stream"] == stream]

    def output(self, id_: str, stream: str = "stdout") -> bytes:
        """What the container wrote, from its log."""
        return b"".join(entry["log"].encode("utf-8", "surrogateescape") for entry in self.lines(id_, stream))

    def directories(self) -> list[str]:
        """Containers' directories that are there."""
        return [entry.name for entry in os.scandir(self.statedir) if entry.is_dir()]

    def noted(self, id_: str) -> dict[str, Any]:
        """What the ledger says of a container now."""
        ledger = self.ledger()
        try:
            return ledger.read(ledger.newest()[id_])
        finally:
            ledger.close()

    def ledger(self) -> Ledger:
        """To read; to write only while no supervisor lives."""
        return Ledger(self.statedir, lambda _seconds, _call: None)

    def cgroups(self) -> list[str]:
        """Containers' cgroups that are there."""
        found = []
        for point in hierarchies().mount_points():
            directory = point + self.cgroup_parent
            if os.path.isdir(directory):
                found += [entry.path for entry in os.scandir(directory) if entry.is_dir() and entry.name != "supervisor"]
        return found

    async def close(self) -> None:
        """End everything; assert that nothing is left."""
        if not gone(self.supervisor, None):
            os.kill(self.supervisor, signal.SIGCONT)  # a failed test may have left it stopped
        for record in await self.client.list():
            await self.client.delete(record["id"], force=True)
        await until(lambda: not self.cgroups(), "the containers' cgroups are gone")
        assert self.directories() == []
        pid = await self.pid()
        started = start_time(pid)
        await self.client.shutdown()
        await self.client.close()
        await until(lambda: gone(pid, started), "the supervisor has ended")
        for point in hierarchies().mount_points():
            for name in ("/supervisor", ""):
                await until(lambda: removed(point + self.cgroup_parent + name), "its cgroup is empty")  # noqa: B023  # awaited here


def text_of(*parts: str) -> str:
    """A file, kernel's or not."""
    return Path(*parts).read_text()


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def gone(pid: int, started: int | None) -> bool:
    """Whether a process has ended: a zombie that nobody reaps has. Without its start time, the pid alone is looked at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] == b"Z" or (started is not None and int(fields[19]) != started)


def exit_told(record: dict[str, Any], code: int) -> bool:
    """Of a process that was not the supervisor's child: kernels before 6.15 do not tell a stranger, and then it is not known."""
    told = (record["exit_code"], record["exit_known"])
    return told == (code, True) or (RELEASE < (6, 15) and told == (None, False))


def read_all(fd: int) -> bytes:
    """To the end, and close (a console ends with EIO)."""
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except OSError:
        pass
    finally:
        os.close(fd)
    return data
