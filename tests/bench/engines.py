"""One container through a whole engine: image, overlay, bridge network, logs, records. Run as root:

    python -m tests.bench.engines [ROUNDS]

Ours is asked as the link asks it, inside the agent; the peers by their command lines, which is what their users have. podman has
to be installed, docker's engine (Debian package docker.io) is measured where it is and works.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from agent.protocol.spec import ContainerSpec, NetworkMode, NetworkSpec
from tests.bench.measure import Measure, Series, Target, run_alone, say
from tests.bench.peers import HERE, Lane, installed
from tests.integration.agent.test_containers import Bench as Node
from tests.integration.agent.test_containers import rootfs
from tests.nodes import isolate, remove_cgroups, remove_pretended_cgroups

ROUNDS = 20
IDLE = 0.15  # s, as in the room runtime
LIMITS = (
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1024:1024",
)  # podman's own are above what a container of ours may set
IMAGE = "localhost/bench"
UP = 30.0  # s until docker's engine answers


class Podman:
    """With Debian's network plugins (CNI) and overlay; `runtime` crun or runc."""

    def __init__(self, directory: Path, archive: Path, runtime: str, cgroup: str, stack: ExitStack) -> None:
        self.name = f"podman run, {runtime}"
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wharf-", dir="/dev/shm")))  # its paths must be short
        directory.mkdir()
        self._words = [
            *installed("podman"), "--root", f"{directory}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp",
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", runtime,
        ]  # fmt: skip
        self._cgroup = cgroup
        self._lane = Lane(str(HERE / "lane.py"), "--hide-v2")  # crun refuses the hybrid layout
        stack.callback(self._lane.close)
        stack.callback(self._call, "system", "reset", "--force")
        self._call("import", str(archive), IMAGE)

    def _call(self, *words: str) -> None:
        self._lane.ask(argv=[*self._words, *words])

    def run(self) -> float:
        """Seconds of `podman run --rm` of true on its bridge."""
        answer = self._lane.ask(argv=[*self._words, "run", "--rm", "--cgroup-parent", f"/{self._cgroup}", *LIMITS, IMAGE, "true"])
        return answer["seconds"]


class Docker:
    """An engine of its own: data, sockets and containerd below one directory."""

    name = "docker run"

    def __init__(self, directory: Path, archive: Path, cgroup: str, stack: ExitStack) -> None:
        """Raises RuntimeError when the engine does not come up here, with its last words."""
        directory.mkdir()
        address = f"unix://{directory}/docker.sock"
        log = stack.enter_context((directory / "log").open("w"))
        engine = subprocess.Popen(
            [
                "dockerd", "--host", address, "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"),
                "--pidfile", str(directory / "pid"), "--cgroup-parent", f"/{cgroup}", "--storage-driver", "overlay2",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(_end, engine)
        self._words = [*installed("docker"), "--host", address]
        _until_up(engine, [*self._words, "version"], directory / "log")
        self._lane = Lane(str(HERE / "lane.py"))
        stack.callback(self._lane.close)
        self._lane.ask(argv=[*self._words, "import", str(archive), IMAGE])

    def run(self) -> float:
        """Seconds of `docker run --rm` of true on its bridge."""
        return self._lane.ask(argv=[*self._words, "run", "--rm", IMAGE, "true"])["seconds"]


def _until_up(engine: subprocess.Popen[bytes], probe: list[str], log: Path) -> None:
    deadline = time.monotonic() + UP
    while subprocess.run(probe, capture_output=True, check=False).returncode:
        if engine.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(" | ".join(log.read_text().splitlines()[-2:]))
        time.sleep(0.1)


def _end(engine: subprocess.Popen[bytes]) -> None:
    engine.terminate()
    engine.wait(30)


async def ours(node: Node, spec: ContainerSpec) -> tuple[float, float]:
    """Seconds until the exit is known, and until the container is removed."""
    began = time.perf_counter()
    container_id = await node.containers.create(spec, image_id=node.image)
    await node.containers.start(container_id)
    record = await node.supervisor.wait(container_id)
    ended = time.perf_counter() - began
    await node.containers.remove(container_id)
    assert record["exit_code"] == 0, record
    return ended, time.perf_counter() - began


async def measured(rounds: int, node: Node, peers: list[Podman | Docker]) -> Measure:
    await node.open()
    try:
        node.image = await node.load()
        node.networks.create(NetworkSpec("bench"))
        spec = replace(node.spec, args=("true",), network_mode=NetworkMode.BRIDGE, networks=("bench",))
        exits, removed = Series("agent, to the exit"), Series("agent, removed")
        rivals = {peer.name: Series(peer.name, peer=True) for peer in peers}
        for number in range(rounds + 1):
            await asyncio.sleep(IDLE)
            ended, gone = await ours(node, spec)
            seconds = {}
            for peer in peers:
                await asyncio.sleep(IDLE)
                seconds[peer.name] = await asyncio.to_thread(peer.run)
            if number:  # the first fills caches
                exits.samples.append(1000 * ended)
                removed.samples.append(1000 * gone)
                for name, value in seconds.items():
                    rivals[name].samples.append(1000 * value)
    finally:
        await node.end()
    note = "overlay, a bridge with an address, masquerade, logs; podman and docker return when the container is removed"
    targets = [Target("agent, to the exit", 0.05, Docker.name)]
    return Measure("runtime", "true through an engine", "ms", [exits, removed, *rivals.values()], note=note, targets=targets)


def measures(rounds: int) -> Iterator[Measure]:
    isolate()
    cgroup = f"wharf-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as directory, ExitStack() as stack:
        path = Path(directory)
        archive = path / "rootfs.tar"
        archive.write_bytes(rootfs().getvalue())
        stack.callback(remove_pretended_cgroups, cgroup)
        stack.callback(remove_cgroups, cgroup)
        peers: list[Podman | Docker] = [Podman(path / runtime, archive, runtime, cgroup, stack) for runtime in ("crun", "runc")]
        if shutil.which("dockerd"):
            try:
                peers.append(Docker(path / "docker", archive, cgroup, stack))
            except RuntimeError as error:
                say(f"  docker is not measured: its engine does not come up here: {error}")
        node = Node(path / "node", cgroup)
        node.home.mkdir()
        yield asyncio.run(measured(rounds, node, peers))


if __name__ == "__main__":
    run_alone(measures, ROUNDS)
