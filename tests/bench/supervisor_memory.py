"""Memory of the supervisor with 0, 50 and 200 containers. Run as root: python -m tests.bench.supervisor_memory"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.integration.agent.supervisor.home import Home, make_rootfs

COUNTS = (0, 50, 200)


def memory(pid: int) -> dict[str, int]:
    """{"Pss", "Private_Dirty", "Rss"} in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {name: values[name] for name in ("Pss", "Private_Dirty", "Rss")}


async def measure(path: Path) -> None:
    home = Home(path, make_rootfs(path / "root"))
    await home.open()
    figures = []
    made = 0
    for count in COUNTS:
        while made < count:
            await home.run(f"c{made}", "sleep", "600")
            made += 1
        figures.append((count, memory(home.supervisor)))
    await home.client.upgrade()
    figures.append((made, memory(home.supervisor)))
    await home.close()
    print(f"{'containers':>12} {'PSS KiB':>9} {'dirty KiB':>10} {'RSS KiB':>9} {'PSS KiB a container':>20}")
    base = figures[0][1]["Pss"]
    for index, (count, values) in enumerate(figures):
        each = f"{(values['Pss'] - base) / count:.1f}" if count else "-"
        note = "  (after an upgrade by execv)" if index == len(COUNTS) else ""
        print(f"{count:>12} {values['Pss']:>9} {values['Private_Dirty']:>10} {values['Rss']:>9} {each:>20}{note}")


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
