"""`wharf repo gc`, `scrub`, `reconcile`, `migrate`: the care of blob stores, as jobs."""

from __future__ import annotations

from typing import Any

import typer

from controlplane.cli.session import Session
from registry.cli.frame import app


def _start(ctx: typer.Context, kind: str, payload: dict[str, Any]) -> None:
    session = Session.of(ctx)
    made = session.post("/api/v1/jobs", {"kind": kind, "payload": payload})
    session.say(made["id"], made)


@app.command("gc")
def gc(
    ctx: typer.Context,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what could go."),
    minutes: float = typer.Option(0, help="Stop after so long; the next run goes on. 0: when all is done."),
) -> None:
    """Start a garbage collection now; `wharf job logs -f ID` follows it."""
    _start(ctx, "registry.gc", {"dry_run": dry_run, "minutes": minutes})


@app.command("scrub")
def scrub(
    ctx: typer.Context,
    days: float = typer.Option(30, help="Leave out what was verified within so many days. 0: read everything."),
    megabytes: float = typer.Option(20, help="Read at most so many a second. 0: as fast as it goes."),
    minutes: float = typer.Option(0, help="Stop after so long; the next run goes on. 0: when all is done."),
) -> None:
    """Read stored blobs again and take out of sight what is spoilt."""
    _start(ctx, "registry.scrub", {"days": days, "megabytes": megabytes, "minutes": minutes})


@app.command("reconcile")
def reconcile(
    ctx: typer.Context,
    repair: bool = typer.Option(False, "--repair", help="Bring back what the trash has, take the rest out of sight."),
) -> None:
    """Compare the blob store with the database and report what differs."""
    _start(ctx, "registry.reconcile", {"repair": repair})


@app.command("migrate")
def migrate(
    ctx: typer.Context, megabytes: float = typer.Option(0, help="Copy at most so many a second. 0: as fast as it goes.")
) -> None:
    """Move all blobs from the store in WHARF_BLOB_STORE_ALSO to the one in WHARF_BLOB_STORE, while both serve."""
    _start(ctx, "registry.migrate", {"megabytes": megabytes})
