"""The frame of `wharf`: global options, commands found by name and imported late, errors as a sentence and an exit code.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 denied or not signed in, 5 unavailable.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command as click_command

from controlplane import house
from controlplane.cli.session import Failure, Session

# name -> (module, attribute): nothing is imported before its command is called, so that `wharf` starts at once
OWN = {
    "up": ("controlplane.cli.running", "up_app"),
    "down": ("controlplane.cli.running", "down_app"),
    "login": ("controlplane.cli.signing_in", "login_app"),
    "logout": ("controlplane.cli.signing_in", "logout_app"),
    "context": ("controlplane.cli.signing_in", "context_app"),
    "job": ("controlplane.cli.jobs", "app"),
    "schedule": ("controlplane.cli.jobs", "schedule_app"),
    "event": ("controlplane.cli.events", "event_app"),
    "audit": ("controlplane.cli.events", "audit_app"),
    "user": ("controlplane.cli.users", "user_app"),
    "token": ("controlplane.cli.users", "token_app"),
}

# What follows these is a program's command line: a --json in it is the program's.
CARRIERS = {("container", "exec"), ("service", "create")}


def guest_commands() -> dict[str, typer.Typer | str]:
    """Every guest's `cli.COMMANDS`: apps, or "module:attribute" of those that are imported when called."""
    found: dict[str, typer.Typer | str] = {}
    for guest in house.GUESTS:
        if importlib.util.find_spec(f"{guest}.cli") is not None:
            found.update(getattr(importlib.import_module(f"{guest}.cli"), "COMMANDS", {}))
    return found


class Commands(TyperGroup):
    """The top-level commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted({*OWN, *guest_commands()})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        app: typer.Typer | str | None = ":".join(OWN[cmd_name]) if cmd_name in OWN else guest_commands().get(cmd_name)
        if app is None:
            return None
        if isinstance(app, str):
            module, _, attribute = app.partition(":")
            loaded: typer.Typer = getattr(importlib.import_module(module), attribute)
            app = loaded
        command = click_command(app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Commands,
    help="Containers on a fleet of hosts, and the trusted registry of their images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
    server: str = typer.Option(
        "", "--server", envvar="WHARF_SERVER", help="Address of the control plane; default: the context's."
    ),
    context: str = typer.Option("", "--context", envvar="WHARF_CONTEXT", help="Which signed-in control plane to talk to."),
) -> None:
    """Run before every command."""
    ctx.obj = Session(as_json=as_json, server=server, context=context)
    ctx.call_on_close(ctx.obj.close)


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in own and not CARRIERS & set(pairwise(own)):  # people write it last, where it would belong to the subcommand
        arguments.remove("--json")
        arguments.insert(0, "--json")
    try:
        app(arguments)
    except Failure as failure:
        failure.show(as_json="--json" in sys.argv)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `wharf job ls | head`
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
