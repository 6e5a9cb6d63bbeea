"""What --help prints."""

from __future__ import annotations

from agent.runtime.cli import tables

_ABOUT = """\
Runs containers from OCI bundles: a bundle is a directory with a specification named "config.json" and a root filesystem.
A supervisor of this machine does the work of a `run` or `exec` that waits for its process; without one, and for every
other command, the program does it itself."""


def page(program: str, command: str) -> str:
    """Of one command, or of the program."""
    if not command:
        return _program(program)
    summary, operands, _, _, _, options = tables.COMMANDS[command]
    lines = [
        "NAME:",
        f"   {program} {command} - {summary}",
        "",
        "USAGE:",
        f"   {program} {command} [options] {operands}".rstrip(),
    ]
    return "\n".join([*lines, "", "OPTIONS:", *_rows((*options, tables.HELP))]) + "\n"


def _program(program: str) -> str:
    names = [(name, row[0]) for name, row in tables.COMMANDS.items()]
    width = max(len(name) for name, _ in names)
    return "\n".join(
        [
            "NAME:",
            f"   {program} - Open Container Initiative runtime",
            "",
            _ABOUT,
            "",
            "USAGE:",
            f"   {program} [global options] command [options] [operands]",
            "",
            "COMMANDS:",
            *(f"   {name:<{width}}  {summary}" for name, summary in names),
            "",
            "GLOBAL OPTIONS:",
            *_rows(tables.GLOBAL),
            "",
        ]
    )


def _rows(options: tuple[tables.Option, ...]) -> list[str]:
    left = []
    for name, letter, kind, _ in options:
        value = "" if kind == "flag" else " value"
        left.append(f"--{name}{value}" + (f", -{letter}{value}" if letter else ""))
    width = max(map(len, left))
    return [f"   {what:<{width}}  {option[3]}" for what, option in zip(left, options, strict=True)]
