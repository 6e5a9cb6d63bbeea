"""~/.config/wharf/context.json (mode 0600): which control planes this person is signed in to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from controlplane.home import write_private


@dataclass(frozen=True, slots=True)
class Context:
    """One control plane: its address, the PEM of its roots, a token, and who the token speaks for."""

    server: str
    ca: str = ""
    token: str = ""
    user: str = ""


def path() -> Path:
    """$WHARF_CONFIG, or context.json in XDG's configuration directory."""
    named = os.environ.get("WHARF_CONFIG")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "wharf" / "context.json"


def load() -> tuple[str, dict[str, Context]]:
    """(name of the current context, all contexts)."""
    try:
        data = json.loads(path().read_text())
    except FileNotFoundError:
        return "default", {}
    return data["current"], {name: Context(**fields) for name, fields in data["contexts"].items()}


def save(current: str, contexts: dict[str, Context]) -> None:
    """Replaces the file."""
    data = {"current": current, "contexts": {name: asdict(context) for name, context in contexts.items()}}
    write_private(path(), json.dumps(data, indent=2).encode())
