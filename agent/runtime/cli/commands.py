"""From a parsed command line to the function that does it, and from an error to a message and an exit status."""

from __future__ import annotations

import importlib
import traceback

from agent.protocol.errors import InvalidInput, WharfError
from agent.runtime.cli.arguments import Options
from agent.runtime.cli.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[[Options, Log], int]

# module of this package : function; one module is imported a command
TABLE = {
    "checkpoint": "checkpoint:checkpoint",
    "create": "create:create",
    "delete": "delete:delete",
    "events": "events:events",
    "exec": "execute:execute",
    "features": "features:features",
    "kill": "signals:kill",
    "list": "report:listing",
    "mounts": "mounting:mounts",
    "pause": "life:pause",
    "ps": "processes:processes",
    "restore": "checkpoint:restore",
    "resume": "life:resume",
    "run": "create:run",
    "spec": "starter:spec",
    "start": "life:start",
    "state": "report:state",
    "update": "limits:update",
}
EXEC_FAILED = 255  # both peers' status of an exec that never ran: no program's own is taken for it by conmon


def run(options: Options) -> int:
    """Exit status."""
    try:
        log = log_of(options)
    except ValueError as error:
        Log(options.program).error(str(error))
        return 1
    module, _, name = TABLE[options.command].partition(":")
    try:
        command: Command = getattr(importlib.import_module(f"agent.runtime.cli.{module}"), name)
        return command(options, log)
    except (WharfError, OSError) as error:
        return report(options, log, error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # the shape of every value of config.json is not checked beforehand: what stumbles over it says where
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"config.json or another input is not as it should be: {type(error).__name__} {error} ({where.name}: {where.line})"
        return report(options, log, InvalidInput(text))


def log_of(options: Options) -> Log:
    """Raises ValueError."""
    level = "debug" if options.flag("debug") else options.text("log-level")
    return Log(options.program, options.text("log"), options.text("log-format"), level)


def report(options: Options, log: Log, error: WharfError | OSError) -> int:
    """Say it in runc's form, and give the exit status."""
    text = words(error)
    if options.command in ("run", "create", "restore"):
        text = f"{options.program} {options.command} failed: {text}"
    elif options.command == "exec":
        text = f"exec failed: {text}"
    log.error(text)
    return EXEC_FAILED if options.command == "exec" else 1


def words(error: WharfError | OSError) -> str:
    """An execve that failed is told as runc tells it: podman and dockerd find the reason by these words."""
    if not isinstance(error, WharfError) or error.code != "exec_failed":
        return error.detail if isinstance(error, WharfError) else str(error)
    program, number = str(error.extra.get("program", "")), int(error.extra.get("errno", 0))
    if number == 2:  # ENOENT
        why = f"stat {program}: no such file or directory" if "/" in program else "executable file not found in $PATH"
    else:
        import os

        why = os.strerror(number).lower()
    return f'unable to start container process: exec: "{program}": {why}'
