"""Every benchmark in turn, one table at the end. `make bench`, or as root:

    python -m tests.bench.run [ROOM...] [--rounds N] [--json FILE]

Each room runs in a process of its own, for some of them leave the machine's namespaces. A room that fails is named, the others
are still measured, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.measure import Measure, machine, say, table

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("runtime", "engines", "supervisor_memory", "mass_kill", "registry", "fleet", "heartbeats", "product")
BUSY = 1.5  # load above which the figures are those of a busy machine


def run(room: str, rounds: int | None) -> tuple[dict[str, Any], int]:
    """({machine, measures} of a room, its exit code)."""
    with tempfile.NamedTemporaryFile(prefix="wharf-bench-", suffix=".json") as file:
        words = [sys.executable, "-m", f"tests.bench.{room}", *([str(rounds)] if rounds else []), "--json", file.name]
        code = subprocess.run(words, cwd=ROOT, check=False).returncode
        text = Path(file.name).read_text()
    return json.loads(text) if text else {"machine": machine(), "measures": []}, code


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure against installed peers and print a table.")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}; all without")
    parser.add_argument("--rounds", type=int, help="for every room, instead of its own number")
    parser.add_argument("--json", type=Path, help="also write machine, samples, medians and minima to this file")
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}; there are {', '.join(ROOMS)}")
    measures: list[Measure] = []
    loads, failed = {}, []
    here = machine()
    for room in options.rooms or ROOMS:
        began = time.monotonic()
        answer, code = run(room, options.rounds)
        measures += [Measure.from_json(data) for data in answer["measures"]]
        loads[room] = answer["machine"]["load"]
        if code:
            failed.append(room)
        say(f"{room}: {'failed' if code else 'done'} in {time.monotonic() - began:.0f} s")
    print(table(measures))
    print(f"\n{here['date']}, {here['cpus']} CPUs, Linux {here['kernel']}, Python {here['python']}")
    print("load when each room began: " + ", ".join(f"{room} {load}" for room, load in loads.items()))
    if max(loads.values()) > BUSY:
        print(f"A load above {BUSY} means that others were at work: trust ratios and minima, not medians.")
    if failed:
        print(f"FAILED: {', '.join(failed)} (see above)")
    if options.json:
        document = {"machine": here, "loads": loads, "failed": failed, "measures": [one.as_json() for one in measures]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
