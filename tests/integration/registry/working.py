"""A worker of the product beside the registry's test server, and what keeps it at work."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.integration.controlplane.stores import wait_for
from tests.integration.registry.server import ROOT, RegistryServer

WORKER = ["celery", "-A", "controlplane.celery", "worker", "--pool", "threads", "-c", "2", "-l", "WARNING"]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


class Works:
    """tests.integration.registry.chores in a process of its own, and one worker for it, which can be killed."""

    def __init__(self, server: RegistryServer, garbage: int, source: str, target: str) -> None:
        self.server = server
        self.log, self.chores_log = server.home / "worker.log", server.home / "chores.log"
        self.worker: subprocess.Popen[bytes] | None = None
        self._kills = 0
        command = [sys.executable, "-m", "tests.integration.registry.chores", str(garbage), source, target]
        with self.chores_log.open("ab") as log:
            self.chores = subprocess.Popen(
                command, cwd=ROOT, env=server.environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *WORKER, *QUIET]
            self.worker = subprocess.Popen(command, cwd=ROOT, env=self.server.environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """kill -9 of the worker."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait(30)
        self.worker = None

    def end_leases(self) -> None:
        """The time of a dead worker's leases is over."""
        assert self.chores.stdin is not None
        self.chores.stdin.write(b"killed\n")
        self.chores.stdin.flush()
        self._kills += 1
        self._wait(lambda: self._told().count("ended\n") >= self._kills, "the leases end")

    @property
    def collections(self) -> int:
        """How many have ended."""
        return max(map(int, re.findall(r"^collected (\d+)$", self._told(), re.MULTILINE)), default=0)

    def wait_for_collections(self, count: int) -> None:
        goal = self.collections + count
        self._wait(lambda: self.collections >= goal, f"{count} collections")

    def _wait(self, condition: object, what: str) -> None:
        wait_for(lambda: condition() or self.chores.poll() is not None, what)  # type: ignore[operator]  # any callable
        assert self.chores.poll() is None, self._told()[-3000:]

    def _told(self) -> str:
        return self.chores_log.read_text("utf-8", "replace")

    def close(self) -> None:
        if self.worker is not None:
            self.kill()
        self.chores.kill()
        self.chores.wait(30)
        assert self.chores.stdin is not None
        self.chores.stdin.close()
