"""1,000 nodes on one web process: what a heartbeat costs, how long its acknowledgement takes, what a link weighs.

    python -m tests.bench.heartbeats [ROUNDS]

A real web process (uvloop, mutual TLS, the real wire) on a SQLite database in a temporary home; the nodes are simulated by two
client processes, each node with its own certificate and row. CPU and memory are the web process's, from /proc.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import HIGHER, LOWER, Measure, Series, percentile, run_alone

NODES = 1000  # even
SECONDS = 20.0  # of heartbeats
CLIENTS = 2
ROOT = Path(__file__).resolve().parents[2]
PROCESS = "tests.bench.heartbeats"


def helper(arguments: list[str]) -> None:
    """What the helper processes do: `prepare NODES`, or `client FILE SECONDS`."""
    match arguments:
        case ["prepare", nodes]:
            prepare(int(nodes))
        case ["client", path, seconds]:
            asyncio.run(client(Path(path), float(seconds)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def once(nodes: int, seconds: float) -> dict[str, float]:
    """Figures of one web process, see `ROWS`."""
    with tempfile.TemporaryDirectory(prefix="wharf-beats-") as home:
        environment = {
            **os.environ,
            "WHARF_HOME": home,
            "WHARF_REDIS_URL": "memory://",
            "WHARF_ADDRESS": "127.0.0.1",
            "WHARF_PORT": str(free_port()),
            "WHARF_NODE_PORT": str(free_port()),
            "WHARF_LOG_LEVEL": "ERROR",
        }
        run = [sys.executable, "-m"]
        subprocess.run([*run, PROCESS, "prepare", str(nodes)], env=environment, cwd=ROOT, check=True)
        web = subprocess.Popen([*run, "controlplane.server"], env=environment, cwd=ROOT)
        try:
            wait_for_port(int(environment["WHARF_NODE_PORT"]), web)
            empty = memory(web.pid)
            started = time.monotonic()
            clients = [
                subprocess.Popen(
                    [*run, PROCESS, "client", f"{home}/nodes-{index}.json", str(seconds)],
                    env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
                for index in range(CLIENTS)
            ]  # fmt: skip
            for process in clients:
                assert process.stdout is not None
                assert process.stdout.readline() == "linked\n"
            up = time.monotonic() - started
            linking = cpu(web.pid)
            time.sleep(5)  # the storm of inventories and first assignments is over
            begin, at = cpu(web.pid), time.monotonic()
            for process in clients:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            found = [json.loads(process.communicate()[0]) for process in clients]
            busy, elapsed = cpu(web.pid) - begin, time.monotonic() - at
            grown = memory(web.pid) - empty
        finally:
            web.terminate()
            web.wait(30)
    delays = [1000 * delay for result in found for delay in result["delays"]]
    assert delays, "no heartbeat was acknowledged"
    assert not any(result["lost"] for result in found), "links were lost"
    return {
        "up": up,
        "linking": 1000 * linking / nodes,
        "rate": len(delays) / elapsed,
        "core": 100 * busy / elapsed,
        "beat": 1e6 * busy / len(delays),
        "p50": percentile(delays, 0.5),
        "p99": percentile(delays, 0.99),
        "memory": grown / nodes / 1024,
    }


# key, what, unit
ROWS = (
    ("up", "all links up", "s"),
    ("linking", "CPU of the web process for one link: handshake, registration, first look", "ms"),
    ("rate", "heartbeats", "per s"),
    ("core", "CPU of the web process meanwhile", "% of a core"),
    ("beat", "the same, for one heartbeat", "us"),
    ("p50", "heartbeat acknowledged, p50", "ms"),
    ("p99", "heartbeat acknowledged, p99", "ms"),
    ("memory", "memory of the web process for one link, PSS", "KiB"),
)


def measures(rounds: int) -> Iterator[Measure]:
    found = [once(NODES, SECONDS) for _ in range(rounds)]
    for key, what, unit in ROWS:
        better = HIGHER if key == "rate" else LOWER
        yield Measure("links", what, unit, [Series(f"{NODES:,} nodes, mutual TLS", [row[key] for row in found])], better)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the web process ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the web process does not listen"
            time.sleep(0.1)


def cpu(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Private and shared resident bytes (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no Pss line")


def prepare(nodes: int) -> None:
    """The database, the roots, and for every node a row and a certificate."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.utils import timezone

    from agent.link.identity import new_key_and_csr
    from controlplane import pki
    from controlplane.api.ids import new_id
    from controlplane.pki.cluster import ensure_authorities
    from controlplane.rbac import collections
    from nodes.models import Node

    Path(settings.PKI_DIR).mkdir(parents=True, exist_ok=True)
    call_command("migrate", verbosity=0)
    ensure_authorities()
    rows, shares = [], [[] for _ in range(CLIENTS)]  # type: ignore[var-annotated]  # lists of dictionaries
    for number in range(nodes):
        node_id = new_id()
        key, csr = new_key_and_csr(node_id)
        certificate, fingerprint, until = pki.sign_node_csr(csr, node_id)
        rows.append(
            Node(
                id=node_id, hostname=f"n{number}", collection=collections.shared(), fingerprint=fingerprint,
                certificate_until=until, approved_at=timezone.now(),
            )
        )  # fmt: skip
        shares[number % CLIENTS].append({"key": key.decode(), "certificate": certificate})
    Node.objects.bulk_create(rows, batch_size=500)
    for index, share in enumerate(shares):
        shared = {"ca": pki.bundle_pem("node"), "port": settings.NODE_PORT, "nodes": share}
        Path(settings.HOME, f"nodes-{index}.json").write_text(json.dumps(shared))


async def client(path: Path, seconds: float) -> None:
    """Half of the nodes: link all, say so, beat for a while from the word go, and print what was seen."""
    data = json.loads(path.read_text())
    nodes = [SimulatedNode(data["port"], context(data["ca"], node, path)) for node in data["nodes"]]
    gate = asyncio.Semaphore(50)
    tasks = [asyncio.create_task(node.run(gate)) for node in nodes]
    await asyncio.gather(*(node.linked.wait() for node in nodes))
    print("linked", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for node in nodes:
        node.delays.clear()
    await asyncio.sleep(seconds)
    delays = [delay for node in nodes for delay in node.delays]
    lost = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps({"delays": delays, "lost": lost}))


def context(ca: str, node: dict[str, str], path: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=ca)
    file = path.with_suffix(".pem")
    file.write_text(node["key"] + node["certificate"])
    made.load_cert_chain(file)
    file.unlink()
    return made


class SimulatedNode:
    """A node that does nothing but beat."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self.linked = asyncio.Event()
        self.delays: list[float] = []
        self._port = port
        self._tls = tls

    async def run(self, gate: asyncio.Semaphore) -> None:
        from websockets.asyncio.client import connect

        from agent.protocol import messages as m
        from agent.protocol.wire import Wire

        wire = Wire(m.AGENT)
        await gate.acquire()
        async with connect(
            f"wss://127.0.0.1:{self._port}/link/v1", ssl=self._tls, server_hostname="localhost", compression=None,
            ping_interval=None, open_timeout=120, proxy=None,
        ) as link:  # fmt: skip
            wire.connect()
            wire.send(m.Hello((m.VERSION,), "bench", "boot", 0, 0))
            await link.send(wire.frames()[0])
            (welcome,) = wire.receive(await link.recv())
            gate.release()
            beating = asyncio.create_task(self._beat(link, wire, welcome.message.epoch))  # type: ignore[union-attr]  # the greeting's answer
            self.linked.set()
            try:
                async for frame in link:
                    for event in wire.receive(frame):
                        message = getattr(event, "message", None)
                        if isinstance(message, m.HeartbeatAck):
                            self.delays.append(time.monotonic() - message.sent)
            finally:
                beating.cancel()

    async def _beat(self, link: Any, wire: Any, epoch: int) -> None:
        from agent.protocol import messages as m

        await asyncio.sleep(random.uniform(0, 2.0))
        while True:
            wire.send(m.Heartbeat(epoch, 0, time.monotonic()))
            for frame in wire.frames():
                await link.send(frame)
            await asyncio.sleep(2.0 * random.uniform(0.9, 1.1))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("prepare", "client"):
        helper(sys.argv[1:])
    else:
        run_alone(measures, 1)
