"""Services on three nodes in namespaces: created to running, scaled, and whole again after a power cut. Run as root:

    python -m tests.bench.fleet [ROUNDS]

Times are those that a client of the REST API sees, which asks every 20 ms over one connection.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.bench.measure import Measure, Series, run_alone
from tests.e2e import images
from tests.e2e.fleet import ControlPlane, Host, fleet, wait_for
from tests.nodes import isolate

ROUNDS = 20  # creations; half as many power cuts
REPLICAS = 4
POLL = 0.02  # s
DEADLINE = 120.0


class Watch:
    """The REST API over one kept connection: a new TLS handshake each time would be measured too."""

    def __init__(self, control: ControlPlane) -> None:
        self.control = control
        self.client = httpx.Client(
            base_url=f"{control.url}/api/v1/", verify=False, timeout=30, headers={"Authorization": f"Bearer {control.token}"}
        )

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any], version: int | None = None) -> Any:
        headers = {} if version is None else {"If-Match": f'"v{version}"'}
        return self.client.post(path, json=body, headers=headers).raise_for_status().json()

    def create(self, name: str, image: str, replicas: int = 1) -> dict[str, Any]:
        spec = {"name": name, "replicas": replicas, "container": {"image": image, "stop_grace": 0.5}}
        service: dict[str, Any] = self.post("services", {"spec": spec})
        return service

    def running(self, service: str) -> list[dict[str, Any]]:
        """Tasks that are wanted and run."""
        tasks = self.get(f"services/{service}/ps")
        return [task for task in tasks if task["desired"] == "running" and task["observed"] == "running"]

    def until(self, condition: Callable[[], Any], what: str) -> float:
        """Seconds until it is true."""
        began = time.perf_counter()
        while not condition():
            assert time.perf_counter() - began < DEADLINE, f"not within {DEADLINE:.0f} s: {what}"
            time.sleep(POLL)
        return time.perf_counter() - began

    def remove(self, service: str) -> None:
        """Returns when nothing of it is left."""
        version = self.get(f"services/{service}")["version"]
        self.client.delete(f"services/{service}", headers={"If-Match": f'"v{version}"'}).raise_for_status()
        self.until(lambda: self.client.get(f"services/{service}").status_code == 404, "the service is removed")


def created(watch: Watch, name: str, image: str) -> float:
    """Seconds from the request until the one task runs."""
    began = time.perf_counter()
    service = watch.create(name, image)["id"]
    watch.until(lambda: watch.running(service), f"{name} runs")
    seconds = time.perf_counter() - began
    watch.remove(service)
    return seconds


def creations(watch: Watch, rounds: int, directory: Path) -> Measure:
    """With the image on every node, and with one that no node has, in turn."""
    control = watch.control
    control.push(images.web(directory / "local"), "admin/local:1")
    everywhere = watch.create("everywhere", "admin/local:1", replicas=6)["id"]
    watch.until(lambda: len(watch.running(everywhere)) == 6, "the image is on every node")
    assert len({task["node"] for task in watch.running(everywhere)}) == 3
    watch.remove(everywhere)
    local, pulled = Series("image on the node"), Series("image to be pulled (1 MB)")
    for number in range(rounds):
        control.push(images.web(directory / str(number), f"page {number}\n"), f"admin/new{number}:1")
        local.samples.append(created(watch, f"local{number}", "admin/local:1"))
        pulled.samples.append(created(watch, f"new{number}", f"admin/new{number}:1"))
    return Measure("fleet", "service create until its task runs", "s", [local, pulled])


def scaling(watch: Watch, rounds: int) -> Measure:
    series = Series("1 to 20 replicas on 3 nodes")
    for number in range(rounds):
        service = watch.create(f"scaled{number}", "admin/local:1")["id"]
        watch.until(lambda: len(watch.running(service)) == 1, "one task runs")  # noqa: B023  # called at once
        began = time.perf_counter()
        watch.post(f"services/{service}/scale", {"replicas": 20}, watch.get(f"services/{service}")["version"])
        watch.until(lambda: len(watch.running(service)) == 20, "twenty tasks run")  # noqa: B023  # called at once
        series.samples.append(time.perf_counter() - began)
        watch.remove(service)
    return Measure("fleet", "service scale until all tasks run", "s", [series])


def power_cuts(watch: Watch, rounds: int, hosts: list[Host]) -> Measure:
    """The node with the most tasks loses power without a word; the clock stops when all replicas run on the others."""
    service = watch.create("survivor", "admin/local:1", replicas=REPLICAS)["id"]
    series = Series(f"{REPLICAS} replicas, one of 3 nodes cut")
    watch.until(lambda: len(watch.running(service)) == REPLICAS, "all replicas run")
    for _ in range(rounds):
        tasks = [task["hostname"] for task in watch.running(service)]
        victim = max(hosts, key=lambda host: tasks.count(host.name))

        def elsewhere(victim: Host = victim) -> bool:
            return len([task for task in watch.running(service) if task["hostname"] != victim.name]) == REPLICAS

        victim.power_off()
        series.samples.append(watch.until(elsewhere, "all replicas run elsewhere"))
        victim.power_on()
        victim.start_agent()
        wait_for(lambda: watch.control.node(victim.name)["state"] == "ready", "the node is back", DEADLINE)  # noqa: B023  # likewise
    watch.remove(service)
    return Measure("fleet", "power cut of a node until all replicas run elsewhere", "s", [series])


def own_namespace_names() -> None:
    """A /run/netns of our own: `ip netns` keeps its names in files that every mount namespace of the machine shares."""
    isolate()
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)


def measures(rounds: int) -> Iterator[Measure]:
    own_namespace_names()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as directory, fleet("n1", "n2", "n3") as (control, hosts):
        watch = Watch(control)
        try:
            yield creations(watch, rounds, Path(directory))
            yield scaling(watch, max(1, rounds // 6))
            yield power_cuts(watch, max(1, rounds // 2), hosts)
        finally:
            watch.client.close()


if __name__ == "__main__":
    run_alone(measures, ROUNDS)
