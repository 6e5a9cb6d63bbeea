"""What a benchmark yields, and the table: samples of several subjects that did the same work in turn.

A room is a module with `measures(rounds) -> Iterator[Measure]` that ends in `run_alone(...)`, so that
`python -m tests.bench.<room> [ROUNDS]` prints its own part of the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOWER, HIGHER = "lower", "higher"


@dataclass
class Series:
    """Samples of one subject, in the order they were taken. `peer`: somebody else's program, which ours are compared with."""

    who: str
    samples: list[float] = field(default_factory=list)
    peer: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def best(self, better: str) -> float:
        return min(self.samples) if better == LOWER else max(self.samples)


@dataclass
class Target:
    """What `who` of a measure is meant to reach: at most (a rate: at least) `bound`, in times of `peer` if one is named."""

    who: str
    bound: float
    peer: str = ""


@dataclass
class Measure:
    """One question with its answers. `better`: which way is good. `note`: what a reader has to know, printed below."""

    room: str
    what: str
    unit: str
    series: list[Series]
    better: str = LOWER
    note: str = ""
    targets: list[Target] = field(default_factory=list)

    def verdicts(self) -> Iterator[str]:
        """A line for each target whose subjects were measured: what was wanted, what was found."""
        medians = {series.who: series.median for series in self.series if series.samples}
        for target in self.targets:
            found = medians.get(target.who)
            if found is None or (target.peer and target.peer not in medians):
                yield f"target for {target.who}: not measured"
                continue
            found /= medians.get(target.peer, 1.0)
            met = found <= target.bound if self.better == LOWER else found >= target.bound
            unit = f"x {target.peer}" if target.peer else f" {self.unit}"
            sign = "<=" if self.better == LOWER else ">="
            yield f"target for {target.who}: {sign} {target.bound:g}{unit}: {'met' if met else 'MISSED'} ({number(found)})"

    def ratios(self, ours: Series) -> str:
        """Our median over each peer's."""
        return ", ".join(f"{ours.median / peer.median:.2f}x {peer.who}" for peer in self.series if peer.peer and peer.samples)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        for row, series in zip(found["series"], self.series, strict=True):
            row.update(n=len(series.samples))
            if series.samples:
                row.update(median=series.median, best=series.best(self.better))
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measure:
        series = [Series(row["who"], row["samples"], row["peer"]) for row in data["series"]]
        targets = [Target(**row) for row in data["targets"]]
        return cls(data["room"], data["what"], data["unit"], series, data["better"], data["note"], targets)


def percentile(samples: list[float], share: float) -> float:
    """The smallest sample that at least `share` (0..1) of all do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(measures: list[Measure]) -> str:
    """Every measure with one line a subject, ours first."""
    lines = [f"{'':48}{'median':>9}{'best':>9}{'n':>5}   ours / peer"]
    room = ""
    for measure in measures:
        if measure.room != room:
            room = measure.room
            lines += ["", room]
        lines.append(f"  {measure.what} [{measure.unit}]")
        for series in sorted(measure.series, key=lambda one: one.peer):
            if not series.samples:
                lines.append(f"    {series.who:44}{'-':>9}{'-':>9}{0:>5}")
                continue
            ratios = "" if series.peer else measure.ratios(series)
            median, best = number(series.median), number(series.best(measure.better))
            lines.append(f"    {series.who:44}{median:>9}{best:>9}{len(series.samples):>5}   {ratios}".rstrip())
        lines += [f"      {verdict}" for verdict in measure.verdicts()]
        if measure.note:
            lines.append(f"      {measure.note}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where and when: {date, cpus, kernel, python, load}."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def run_alone(measures: Callable[[int], Iterator[Measure]], rounds: int) -> None:
    """The command line of a room. What was measured before a failure is still printed."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=rounds, help=f"how often each subject is asked ({rounds})")
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("benchmarks need root: namespaces, cgroups and a local node")
    found: list[Measure] = []
    where = machine()
    try:
        for measure in measures(options.rounds):
            found.append(measure)
            say(f"  {measure.room}: {measure.what}")
    finally:
        if options.json:
            options.json.write_text(json.dumps({"machine": where, "measures": [measure.as_json() for measure in found]}))
        else:
            print(table(found))
            print(f"\nload when it began: {where['load']}")
