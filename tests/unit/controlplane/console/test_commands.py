"""Every line that a page offers to copy is a command that `wharf` takes: its name, its arguments, its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from controlplane.cli.main import app

ROOT = Path(__file__).resolve().parents[4]
# {% command "wharf …" %} and {% with "wharf …"|add:name|add:" …" as line %}
LITERAL = re.compile(r'\{% command "(wharf(?:-agent)? [^"]*)" %\}')
JOINED = re.compile(r'\{% with ("wharf(?:-agent)? [^%]*?) as line %\}')


def _lines() -> list[str]:
    found = set()
    for room in ("controlplane", "nodes", "registry"):
        for template in (ROOT / room / "console" / "templates").rglob("*.html"):
            text = template.read_text()
            found.update(LITERAL.findall(text))
            for parts in JOINED.findall(text):
                pieces = parts.split("|add:")
                found.add("".join(piece.strip('"') if piece.startswith('"') else "X" for piece in pieces))
    return sorted(found)


LINES = _lines()


def test_there_are_such_lines() -> None:
    assert len(LINES) > 8


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("wharf ")])
def test_wharf_takes_the_line(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = get_command(app)
    while hasattr(command, "get_command"):
        with command.make_context("wharf", [], resilient_parsing=True) as context:
            found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command, words = found, words[1:]
    command.make_context(command.name, words).close()  # parses; an unknown option or a missing argument raises
