"""`wharf up` and `wharf down`: the launcher takes this process's place, so that nothing of the command line stays in memory."""

from __future__ import annotations

import os
import sys

import typer

up_app = typer.Typer(add_completion=False, help="Start everything on this host.")
down_app = typer.Typer(add_completion=False, help="Stop everything on this host, containers included.")


def _become(*arguments: str, home: str) -> None:
    if home:
        os.environ["WHARF_HOME"] = os.path.abspath(home)
    os.execv(sys.executable, [sys.executable, "-m", "controlplane.launcher", *arguments])  # noqa: S606  # no shell, our own module


@up_app.command()
def up(
    home: str = typer.Option("", help="Where the state lives; default: WHARF_HOME, or the system's place for it."),
    agent: bool = typer.Option(True, help="As root: also a local node."),
) -> None:
    """Start console, REST, registry, worker, Valkey and, as root, a local node; Ctrl-C ends them, containers go on."""
    _become("up", *([] if agent else ["--no-agent"]), home=home)


@down_app.command()
def down(home: str = typer.Option("", help="Where the state lives; default as for `wharf up`.")) -> None:
    """Stop what `wharf up` started, and the containers of the local node."""
    _become("down", home=home)
