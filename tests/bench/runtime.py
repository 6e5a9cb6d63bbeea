"""Starts, execs and throughput of our runtime against crun and runc over one config.json. Run as root:

    python -m tests.bench.runtime [ROUNDS]

Ours answer three ways: through the supervisor's client as the agent does, resident in a process as the supervisor itself does,
and cold from the command line as a container engine would call it.
"""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from agent.runtime.defaults import CAPABILITIES, default_config
from tests.bench.measure import HIGHER, Measure, Series, Target, run_alone
from tests.bench.peers import Lane, Peers, make_bundle
from tests.bench.seccomp_profile import podman_profile
from tests.integration.agent.supervisor.home import Home, make_rootfs
from tests.nodes import remove_cgroups

ROUNDS = 20
IDLE = 0.15  # s: the kernel's grace periods make a first cgroup write after a rest dear, and a tight loop would hide that
BURST = 20  # starts of a throughput sample
TICK = os.sysconf("SC_CLK_TCK")

Sample = dict[str, float]  # seconds, cpu, and removed where it differs


class Client:
    """Our supervisor, asked through the agent's client."""

    def __init__(self, home: Home, config: dict[str, Any], label: str = "c") -> None:
        self.home, self.config, self.label = home, config, label
        self.count = 0

    def cpu(self) -> float:
        """Of the supervisor and every container it reaped, seconds; and of this process."""
        fields = Path(f"/proc/{self.home.supervisor}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / TICK + time.process_time()

    async def run(self) -> Sample:
        self.count += 1
        id_ = f"{self.label}{self.count}"
        client = self.home.client
        used, began = self.cpu(), time.perf_counter()
        await client.create(id_, self.config, self.home.rootfs)
        await client.start(id_)
        record = await client.wait(id_)
        seconds = time.perf_counter() - began
        await client.delete(id_)
        removed = time.perf_counter() - began
        assert record["exit_code"] == 0, record
        return {"seconds": seconds, "removed": removed, "cpu": self.cpu() - used}

    async def exec(self, id_: str, process: dict[str, Any]) -> float:
        began = time.perf_counter()
        session = await self.home.client.exec(id_, process)
        code = await self.home.client.exec_wait(session.exec_id)
        seconds = time.perf_counter() - began
        for fd in (session.stdout_fd, session.stderr_fd):
            if fd is not None:
                os.close(fd)
        assert code == 0
        return seconds


@asynccontextmanager
async def supervisor(path: Path, rootfs: Path) -> AsyncIterator[Home]:
    path.mkdir()
    home = Home(path, rootfs)
    await home.open()
    try:
        yield home
    finally:
        await home.close()


async def starts(rounds: int, filter_name: str, client: Client, resident: Lane, peers: Peers) -> list[Measure]:
    """Three questions over one configuration whose seccomp filter is `filter_name`."""
    taken: dict[str, list[Sample]] = {}

    async def sample(name: str, work: Callable[[], Awaitable[Sample] | Sample]) -> None:
        await asyncio.sleep(IDLE)
        answer = work()
        taken.setdefault(name, []).append(answer if isinstance(answer, dict) else await answer)

    for _ in range(rounds):
        await sample("supervisor", client.run)
        await sample(peers.crun.name, peers.crun.run)
        await sample("resident in a process", lambda: resident.ask())
        await sample(peers.runc.name, peers.runc.run)
        await sample(peers.cold.name, peers.cold.run)
        await sample(peers.served.name, peers.served.run)
        await sample(peers.crun_plain.name, peers.crun_plain.run)
    rivals = {peers.crun.name, peers.runc.name, peers.crun_plain.name}

    def measure(what: str, key: str, note: str = "", targets: Sequence[Target] = ()) -> Measure:
        series = [
            Series(name, [1000 * sample.get(key, sample["seconds"]) for sample in samples], name in rivals)
            for name, samples in taken.items()
        ]
        return Measure("runtime", f"{what} ({filter_name})", "ms", series, note=note, targets=list(targets))

    cpu_note = "supervisor: its own, container's and client's; a mean: it is counted in ticks"
    cpu = measure("CPU of a start", "cpu", cpu_note, [Target("resident in a process", 6.0)])
    cpu.series[0].samples = [sum(cpu.series[0].samples) / rounds]
    return [
        measure(
            "start of true to its exit",
            "seconds",
            "the command lines return only when the container is deleted: next row",
            [
                Target("resident in a process", 0.20, "crun"),
                Target("resident in a process", 0.14, "runc"),
                Target("resident in a process", 0.40, "crun without seccomp"),
            ],
        ),
        measure("start of true until it is deleted", "removed", targets=[Target(peers.served.name, 1.0, "crun")]),
        cpu,
    ]


async def execs(rounds: int, client: Client, peers: Peers, sleeper: Path) -> Measure:
    """exec of true in a running container."""
    config = default_config(["sleep", "600"])
    await client.home.run("sleeper", "sleep", "600", config=config)
    process = {**config["process"], "args": ["true"]}
    rivals = [peers.crun, peers.runc, peers.cold, peers.served]
    ours = (peers.cold, peers.served)
    series = {"supervisor": Series("supervisor"), **{one.name: Series(one.name, peer=one not in ours) for one in rivals}}
    with ExitStack() as stack:
        running = [(one, stack.enter_context(one.running(sleeper / one.directory.name))) for one in rivals]
        for _ in range(rounds):
            await asyncio.sleep(IDLE)
            series["supervisor"].samples.append(1000 * await client.exec("sleeper", process))
            for one, id_ in running:
                await asyncio.sleep(IDLE)
                series[one.name].samples.append(1000 * one.exec(id_, "true")["seconds"])
    await client.home.client.delete("sleeper", force=True)
    return Measure(
        "runtime",
        "exec of true in a running container, to its exit",
        "ms",
        list(series.values()),
        targets=[Target("supervisor", 0.30, "crun")],
    )


async def throughput(rounds: int, clients: list[Client], residents: list[Lane], pairs: list[Peers]) -> Measure:
    """Starts a second with two at a time, each deleted before the next."""
    each = BURST // 2
    series: dict[str, Series] = {}

    def note(name: str, seconds: float, peer: bool = False) -> None:
        series.setdefault(name, Series(name, peer=peer)).samples.append(BURST / seconds)

    async def lane(client: Client) -> None:
        for _ in range(each):
            await client.run()

    def two(works: list[Callable[[], Sample]]) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda work: [work() for _ in range(each)], works))
        return time.perf_counter() - began

    for _ in range(max(1, rounds // 5)):
        began = time.perf_counter()
        await asyncio.gather(*(lane(client) for client in clients))
        note("supervisor", time.perf_counter() - began)
        note("crun", two([peers.crun.run for peers in pairs]), peer=True)
        note("resident in two processes", two([lane.ask for lane in residents]))
        note("runc", two([peers.runc.run for peers in pairs]), peer=True)
        note("wharf-runtime, cold", two([peers.cold.run for peers in pairs]))
        note("wharf-runtime, by a supervisor", two([peers.served.run for peers in pairs]))
        note("crun without seccomp", two([peers.crun_plain.run for peers in pairs]), peer=True)
    return Measure(
        "runtime",
        "starts, two at a time, each deleted",
        "per s",
        list(series.values()),
        HIGHER,
        targets=[Target("supervisor", 5.0, "crun")],
    )


class Bench:
    """The directories, bundles and helper processes of a run."""

    def __init__(self, path: Path, cgroup: str, stack: ExitStack) -> None:
        self.path, self.cgroup, self.stack = path, cgroup, stack
        self.rootfs = make_rootfs(path / "rootfs")

    def peers(self, name: str, config: dict[str, Any]) -> Peers:
        directory = self.path / name
        directory.mkdir()
        peers = Peers(directory, config, self.rootfs, f"{self.cgroup}/{name}", str(self.path / "supervisor/run"))
        self.stack.callback(peers.close)
        return peers

    def sleepers(self, peers: Peers) -> Path:
        """A directory of bundles that sleep, one a runtime."""
        directory = self.path / "sleepers"
        directory.mkdir()
        for one in peers.all():
            make_bundle(directory / one.directory.name, default_config(["sleep", "600"]), self.rootfs, f"{self.cgroup}/sleep")
        return directory

    async def warm(self, client: Client, resident: Lane, peers: Peers) -> None:
        """Everybody's files are in the page cache, and caches filled, before the first sample."""
        await client.run()
        resident.ask()
        for one in peers.all():
            one.run()


async def measure_all(rounds: int, bench: Bench) -> AsyncGenerator[Measure, None]:
    config = default_config(["true"])
    pair = [bench.peers("set1", config), bench.peers("set2", config)]
    residents = [peers.resident("resident", config) for peers in pair]
    async with supervisor(bench.path / "supervisor", bench.rootfs) as home:
        clients = [Client(home, config, "a"), Client(home, config, "b")]
        await bench.warm(clients[0], residents[0], pair[0])
        for measure in await starts(rounds, "our default seccomp filter", clients[0], residents[0], pair[0]):
            yield measure
        if profile := podman_profile(CAPABILITIES):
            other = copy.deepcopy(config)
            other["linux"]["seccomp"] = profile
            peers, client = bench.peers("podman", other), Client(home, other, "p")
            resident = peers.resident("resident", other)
            await bench.warm(client, resident, peers)
            for measure in await starts(rounds, "podman's default seccomp filter", client, resident, peers):
                yield measure
        yield await execs(rounds, clients[0], pair[0], bench.sleepers(pair[0]))
        yield await throughput(rounds, clients, residents, pair)


def measures(rounds: int) -> Iterator[Measure]:
    cgroup = f"wharf-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as directory, ExitStack() as stack, asyncio.Runner() as runner:
        stack.callback(remove_cgroups, cgroup)
        answers = measure_all(rounds, Bench(Path(directory), cgroup, stack))

        async def following() -> Measure:
            return await anext(answers)

        try:
            while True:
                try:
                    yield runner.run(following())
                except StopAsyncIteration:
                    return
        finally:
            runner.run(answers.aclose())


if __name__ == "__main__":
    run_alone(measures, ROUNDS)
