"""`wharf container stats`: rates from the last two samples of each container."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.cli.session import Session, cell
from nodes.cli.quantities import size_text

REFRESH = 5.0  # seconds; nodes send a sample every ten
PATH = "/api/v1/containers"


def usage(container: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row. Of cumulative counters the newest two samples count; without two of them the rate is None."""
    row: dict[str, Any] = {"name": container["name"], "id": container["container_id"], "node": container["hostname"]}
    newest = samples[-1] if samples else {}
    before = samples[-2] if len(samples) > 1 else {}
    seconds = newest["at"] - before["at"] if before else 0.0
    spent = newest.get("cpu_seconds", 0.0) - before.get("cpu_seconds", 0.0)
    # a counter that fell belongs to a container that was restarted: there is no rate over that moment
    row["cpu_percent"] = round(100 * spent / seconds, 2) if seconds > 0 and spent >= 0 else None
    for name in ("memory_used", "memory_limit", "pids", "rx_bytes", "tx_bytes", "at"):
        row[name] = newest.get(name)
    return row


def _size(key: str) -> Any:
    return lambda row: "" if row[key] is None else size_text(row[key])


COLUMNS: dict[str, Any] = {
    "Name": "name",
    "Node": "node",
    "CPU %": lambda row: "" if row["cpu_percent"] is None else f"{row['cpu_percent']:.2f}",
    "Memory": _size("memory_used"),
    "Limit": lambda row: size_text(row["memory_limit"]) if row["memory_limit"] else "",
    "Processes": lambda row: "" if row["pids"] is None else f"{row['pids']:.0f}",
    "Received": _size("rx_bytes"),
    "Sent": _size("tx_bytes"),
}


def look(session: Session, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the named containers, or of all that run."""
    rows = [session.get(f"{PATH}/{name}") for name in names] or list(session.pages(PATH, state="running"))
    return [usage(row, session.get(f"{PATH}/{row['id']}/samples")) for row in rows]


def show(session: Session, names: Sequence[str], *, once: bool) -> None:
    """A table that is drawn anew until Ctrl-C; one table, or JSON, when `once` or in a pipe."""
    if once or session.as_json or not sys.stdout.isatty():
        session.table(look(session, names), COLUMNS)
        return
    from rich.live import Live
    from rich.table import Table

    with Live(refresh_per_second=4, screen=False) as live:
        while True:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for number, heading in enumerate(COLUMNS):
                table.add_column(heading, justify="left" if number < 2 else "right")
            for row in look(session, names):
                table.add_row(*(cell(row, column) for column in COLUMNS.values()))
            live.update(table, refresh=True)
            time.sleep(REFRESH)
