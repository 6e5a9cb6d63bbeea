"""Stop and resume every process of a cgroup: cgroup.freeze of v2, freezer.state of v1."""

from __future__ import annotations

import os
import select
import time

from agent.runtime.cgroup import files


class Freezer:
    """`unified`: the v2 directory, used where it has cgroup.freeze; `v1`: the freezer's directory. Either may be None."""

    __slots__ = ("unified", "v1")

    def __init__(self, unified: str | None, v1: str | None) -> None:
        self.unified = unified if unified and os.access(unified + "/cgroup.freeze", os.F_OK) else None
        self.v1 = v1

    def usable(self) -> bool:
        return bool(self.unified or self.v1)

    def frozen(self) -> bool:
        if self.unified:
            return files.read(self.unified + "/cgroup.freeze").strip() == "1"
        return bool(self.v1) and files.read(f"{self.v1}/freezer.state").strip() in ("FROZEN", "FREEZING")

    def set(self, frozen: bool, seconds: float) -> bool:
        """Whether every process has got there within `seconds`."""
        deadline = time.monotonic() + seconds
        if self.unified:
            files.write(self.unified + "/cgroup.freeze", "1" if frozen else "0")
            return _wait_v2(self.unified + "/cgroup.events", frozen, deadline)
        return _wait_v1(f"{self.v1}/freezer.state", "FROZEN" if frozen else "THAWED", deadline)

    def thaw_now(self) -> None:
        """Ask for the thaw without waiting."""
        if self.unified:
            files.write(self.unified + "/cgroup.freeze", "0")
        elif self.v1:
            files.write(f"{self.v1}/freezer.state", "THAWED")

    def thaw_v1(self) -> None:
        """A task frozen by v1 dies of SIGKILL only after the thaw."""
        if self.v1 and files.read(f"{self.v1}/freezer.state").strip() not in ("THAWED", ""):
            files.write(f"{self.v1}/freezer.state", "THAWED")


def _wait_v2(events: str, frozen: bool, deadline: float) -> bool:
    fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        wanted = b"frozen 1" if frozen else b"frozen 0"
        while wanted not in os.pread(fd, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(min(left, 0.1) * 1000)
        return True
    finally:
        os.close(fd)


def _wait_v1(path: str, wanted: str, deadline: float) -> bool:
    """v1 has no notification, and a task between two states has to be asked for again."""
    while True:
        files.write(path, wanted)
        if files.read(path).strip() == wanted:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
