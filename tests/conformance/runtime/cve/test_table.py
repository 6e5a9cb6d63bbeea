"""docs/known-escapes.md names a test for every known escape and every default, and each of them exists."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[4]
HERE = Path(__file__).parent
# the runtime's share of the table that the design began with; it only grows
KNOWN = """
    2016-9962 2019-5736 2019-16884 2019-19921 2020-15257 2021-30465 2021-43784 2022-0492 2022-24769 2022-29162 2023-25809
    2023-27561 2023-28642 2024-21626 2024-45310 2025-31133 2025-52565 2025-52881 2026-41579
"""


def rows(heading: str) -> list[list[str]]:
    text = (REPOSITORY / "docs/known-escapes.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions(file: Path) -> set[str]:
    body = ast.parse(file.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def named() -> list[tuple[Path, str]]:
    found = []
    for cells in [row[3:] for row in rows("Containers")] + [row[1:] for row in rows("Defaults")]:
        for cell in cells:
            file, _, function = cell.partition("::")
            place = REPOSITORY / file if "/" in file else HERE / file
            found.append((place.with_suffix(".py"), function))
    return found


def test_every_row_names_tests_that_exist() -> None:
    missing = [(file.name, function) for file, function in named() if not file.is_file() or function not in functions(file)]
    assert missing == []


def test_every_known_escape_has_a_row() -> None:
    numbers = [row[0] for row in rows("Containers")]
    assert set(numbers) == set(KNOWN.split())
    assert numbers == sorted(numbers, key=lambda number: tuple(map(int, number.split("-"))))


def test_every_file_of_an_attack_is_in_a_row() -> None:
    assert {file for file, _ in named() if file.parent == HERE} == set(HERE.glob("test_cve_*.py"))
