"""state and list."""

from __future__ import annotations

import json
import os
import pwd
import sys

from agent.protocol.errors import InvalidInput
from agent.runtime.cli import handles
from agent.runtime.state import StateDirectory, every

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def show(value: Any, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(value, indent=indent, separators=None if indent else (",", ":")) + "\n")
    sys.stdout.flush()


def described(directory: StateDirectory) -> dict[str, Any]:
    """The OCI state, with runc's additions."""
    state, config, status = directory.state(), directory.config(), directory.status()
    root = config["root"]["path"]
    annotations = config.get("annotations")
    return {
        "ociVersion": config["ociVersion"],
        "id": directory.id,
        "pid": 0 if status == "stopped" else state["pid"],
        "status": status,
        "bundle": state["bundle"],
        "rootfs": root if root.startswith("/") else os.path.join(state["bundle"], root),
        "created": state["created"],
        **({"annotations": annotations} if annotations else {}),
        "owner": _owner(directory.path),
    }


def _owner(path: str) -> str:
    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def state(options: Options, log: Log) -> int:
    show(described(StateDirectory(handles.root(options), options.id)))
    return 0


def form(options: Options) -> str:
    """table or json. Raises InvalidInput."""
    wanted = options.text("format", "table")
    if wanted not in ("table", "json"):
        raise InvalidInput(f"invalid format option {wanted!r}; use table or json")
    return wanted


def listing(options: Options, log: Log) -> int:
    wanted = form(options)
    directories = every(handles.root(options))
    if options.flag("quiet"):
        sys.stdout.write("".join(directory.id + "\n" for directory in directories))
        return 0
    found = [described(directory) for directory in directories]
    if wanted == "json":
        show(found or None, None)
        return 0
    columns = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
    rows = [columns, *([str(item[name.lower()]) for name in columns] for item in found)]
    widths = [max(9, *(len(row[index]) for row in rows)) for index in range(len(columns))]
    for row in rows:
        sys.stdout.write("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    return 0
