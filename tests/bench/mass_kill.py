"""The end of many containers at once: killed, cleaned away and reported. Run as root:

python -m tests.bench.mass_kill [ROUNDS]
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Measure, Series, Target, run_alone
from tests.integration.agent.supervisor.home import Home, make_rootfs

COUNT = 200
ROUNDS = 5


async def killed(home: Home, isolation: str) -> tuple[float, float]:
    """(s until the exit of the last one was reported, s until the last cgroup and directory were gone), killed and deleted."""
    names = [f"c{number}" for number in range(COUNT)]
    for name in names:
        await home.run(name, "sleep", "600", isolation=isolation)
    began = time.perf_counter()
    await asyncio.gather(*(home.client.stop(name, signal.SIGKILL, None) for name in names))
    reported = time.perf_counter() - began
    for name in names:
        await home.client.delete(name)
    for name in names:
        await home.run(name, "sleep", "600", isolation=isolation)
    began = time.perf_counter()
    await asyncio.gather(*(home.client.delete(name, force=True) for name in names))
    return reported, time.perf_counter() - began


async def sampled(path: Path, rounds: int, isolation: str) -> list[tuple[float, float]]:
    home = Home(path, make_rootfs(path / "root"))
    await home.open()
    try:
        return [await killed(home, isolation) for _ in range(rounds)]
    finally:
        await home.close()


def measures(rounds: int) -> Iterator[Measure]:
    ends: list[Series] = []
    for isolation, kind in (("shared", ""), ("shim", ", each with a shim")):
        with tempfile.TemporaryDirectory(prefix="wharf-bench-") as directory:
            rows = asyncio.run(sampled(Path(directory), rounds, isolation))
        ends.append(Series(f"killed and reported{kind}", [row[0] * 1000 for row in rows]))
        ends.append(Series(f"deleted by force{kind}", [row[1] * 1000 for row in rows]))
    note = "deleted: cgroups, files and records gone as well; the kernel frees network namespaces in its own time"
    yield Measure(
        "runtime", f"the end of {COUNT} containers at once", "ms", ends, note=note, targets=[Target("killed and reported", 250.0)]
    )


if __name__ == "__main__":
    run_alone(measures, ROUNDS)
