"""`wharf up` as a newcomer meets it: time to healthy with the local node ready, time to gone, memory and CPU at rest. As root:

    python -m tests.bench.product [ROUNDS]

Runs in network and mount namespaces of its own, so that the machine's interfaces are left alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.bench.measure import Measure, Series, run_alone
from tests.bench.supervisor_memory import pss
from tests.nodes import isolate

ROOT = Path(__file__).resolve().parents[2]
REST = 30.0  # s over which CPU at rest is counted
SETTLE = 10.0  # s after the start until it is at rest
DEADLINE = 180.0
TICK = os.sysconf("SC_CLK_TCK")
# the first that is found in a command line names the process
NAMES = {
    "valkey-server": "valkey",
    "controlplane.server": "web",
    "celery": "worker",
    "agent/supervisor/__main__.py": "supervisor",
    " agent ": "agent",
    "controlplane.launcher": "launcher",
}


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.01)
    return value


class Product:
    """One home, started any number of times."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="wharf-bench-"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
            "WHARF_HOME": str(self.home / "home"),
            "WHARF_ADDRESS": "127.0.0.1",
            "WHARF_REGISTRY_CREATE_ON_PUSH": "1",
            "PYTHONPATH": str(ROOT),
            "WELCOME": "0",
        }
        self.home.chmod(0o755)
        for variable in ("WHARF_PORT", "WHARF_NODE_PORT"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.environment[variable] = str(probe.getsockname()[1])
        self.url = f"https://127.0.0.1:{self.environment['WHARF_PORT']}/api/v1"
        self.client = httpx.Client(verify=False, timeout=10)
        self.process: subprocess.Popen[bytes] | None = None
        self.token = ""

    @property
    def log(self) -> Path:
        return self.home / "up.log"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "controlplane.launcher", *words]

    def start(self) -> float:
        """Seconds from nothing to healthy with the local node ready."""
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command("up"), env=self.environment, cwd=ROOT, stdout=log, stderr=log)
        until(lambda: self._alive() and self._healthy(), "a healthy control plane")
        if not self.token:
            self.token = self._sign_in()
        until(lambda: self._alive() and self._node_ready(), "the local node is ready")
        return time.perf_counter() - began

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return True

    def _healthy(self) -> bool:
        try:
            return self.client.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def _sign_in(self) -> str:
        until(lambda: "Sign in" in self.log.read_text(), "the password is printed")
        line = next(line for line in self.log.read_text().splitlines() if "Sign in" in line)
        password = line.split("/")[1].split()[0]
        answer = self.client.post(f"{self.url}/login", json={"username": "admin", "password": password})
        return str(answer.raise_for_status().json()["token"])

    def _node_ready(self) -> bool:
        answer = self.client.get(f"{self.url}/nodes", headers={"Authorization": f"Bearer {self.token}"})
        return any(node["state"] == "ready" and node["linked"] for node in answer.raise_for_status().json())

    def stop(self) -> float:
        """Seconds from SIGTERM until the launcher and all its children are gone; the supervisor stays, with its containers."""
        assert self.process is not None
        pids = [pid for pid, name in self.processes().items() if name != "supervisor"]
        began = time.perf_counter()
        self.process.terminate()
        self.process.wait(60)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all processes are gone")
        return time.perf_counter() - began

    def processes(self) -> dict[int, str]:
        """Name by pid of everything that belongs to this home: the launcher's descendants and the node's supervisor."""
        assert self.process is not None
        parents: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents[int(entry.name)] = (parent, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended meanwhile
        ours: dict[int, str] = {}
        for pid, (_, command) in parents.items():
            above = pid
            while above in parents and above != self.process.pid:
                above = parents[above][0]
            if above == self.process.pid or ("supervisor/__main__" in command and str(self.home) in command):
                ours[pid] = next((name for mark, name in NAMES.items() if mark in command), command[:40] or "?")
        return ours

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        down = subprocess.run(self.command("down"), env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)
        self.client.close()
        shutil.rmtree(self.home)
        assert down.returncode == 0, down.stderr


def cpu(pids: dict[int, str]) -> dict[str, float]:
    """Seconds of CPU by name, waited-for children included."""
    used: dict[str, float] = {}
    for pid, name in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[name] = used.get(name, 0.0) + sum(int(field) for field in fields[11:15]) / TICK
    return used


def at_rest(product: Product) -> tuple[dict[str, float], dict[str, float]]:
    """(MiB of PSS, CPU in percent of one core) by process."""
    time.sleep(SETTLE)
    pids = product.processes()
    before = cpu(pids)
    time.sleep(REST)
    after = cpu(pids)
    memory: dict[str, float] = {}
    for pid, name in pids.items():
        memory[name] = memory.get(name, 0.0) + pss(pid) / 1024
    return memory, {name: 100 * (after[name] - before[name]) / REST for name in before}


def measures(rounds: int) -> Iterator[Measure]:
    isolate()
    times: dict[str, list[float]] = {"empty home": [], "second start": [], "SIGTERM": []}
    rest: list[tuple[dict[str, float], dict[str, float]]] = []
    for number in range(rounds):
        product = Product()
        try:
            times["empty home"].append(product.start())
            if number == 0:
                rest.append(at_rest(product))
            times["SIGTERM"].append(product.stop())
            times["second start"].append(product.start())
            times["SIGTERM"].append(product.stop())
        finally:
            product.close()
    starting = [Series(f"wharf up, {name}", times[name]) for name in ("empty home", "second start")]
    yield Measure("product", "start until healthy and the local node ready", "s", starting)
    yield Measure("product", "SIGTERM until all are gone (containers stay)", "s", [Series("wharf up", times["SIGTERM"])])
    memory, percent = rest[0]
    for what, unit, values in (
        ("memory at rest, PSS", "MiB", memory),
        (f"CPU at rest over {REST:.0f} s", "% of a core", percent),
    ):
        series = [Series(name, [value]) for name, value in values.items()]
        yield Measure("product", what, unit, [*series, Series("sum", [sum(values.values())])])


if __name__ == "__main__":
    run_alone(measures, 3)
