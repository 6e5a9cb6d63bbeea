"""Memory that tending containers costs: the supervisor's PSS with none, 50 and 200 of them. Run as root:

python -m tests.bench.supervisor_memory
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Measure, Series, Target, run_alone
from tests.integration.agent.supervisor.home import Home, make_rootfs

COUNTS = (50, 200)


def pss(pid: int) -> int:
    """Proportional set size of a process, KiB (proc(5), smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no memory: it has ended")


async def figures(path: Path) -> list[int]:
    """PSS with no container, with each of COUNTS, and after an upgrade by execv."""
    home = Home(path, make_rootfs(path / "root"))
    await home.open()
    try:
        found = [pss(home.supervisor)]
        made = 0
        for count in COUNTS:
            while made < count:
                await home.run(f"c{made}", "sleep", "600")
                made += 1
            found.append(pss(home.supervisor))
        await home.client.upgrade()
        found.append(pss(home.supervisor))
    finally:
        await home.close()
    return found


def measures(rounds: int) -> Iterator[Measure]:
    rows: list[list[int]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="wharf-bench-") as directory:
            rows.append(asyncio.run(figures(Path(directory))))
    labels = ["no container", *(f"{count} containers" for count in COUNTS), f"{COUNTS[-1]} containers, after an upgrade"]
    totals = [Series(label, [row[index] / 1024 for row in rows]) for index, label in enumerate(labels)]
    yield Measure("runtime", "memory of the supervisor, PSS", "MiB", totals)
    each = [Series(labels[index], [(row[index] - row[0]) / count for row in rows]) for index, count in enumerate(COUNTS, 1)]
    yield Measure("runtime", "the same, for one container", "KiB", each, targets=[Target(f"{COUNTS[-1]} containers", 32.0)])


if __name__ == "__main__":
    run_alone(measures, 1)
