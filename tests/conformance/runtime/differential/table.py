"""The tables of docs/runtime-differences.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[4] / "docs/runtime-differences.md"
ABSENT = "-"
COLUMNS = ["what", "ours", "runc", "crun", "why"]


@dataclass(frozen=True)
class Row:
    what: str
    cells: tuple[str, str, str]
    why: str

    def explains(self, what: str, seen: tuple[str, ...]) -> bool:
        return like(self.what, what) and all(like(cell, value) for cell, value in zip(self.cells, seen, strict=True))


def like(pattern: str, text: str) -> bool:
    """Equal, where `*` stands for any text. `*:*` is what device rules say, and matches itself, too."""
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text) is not None


def rows(heading: str) -> list[Row]:
    """Those of the table below a heading of the second order. Raises AssertionError for a row that is no row."""
    _, _, after = DOCUMENT.read_text().partition(f"\n## {heading}\n")
    assert after, f"{DOCUMENT.name} has no heading {heading!r}"
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == COLUMNS
    found = []
    for cells in body:
        assert len(cells) == len(COLUMNS), cells
        assert all(cells), f"a row without a reason: {cells}"
        what, one, two, three = (cell.strip("`") for cell in cells[:4])
        found.append(Row(what, (one, two, three), cells[4]))
    return found
