"""`wharf event` and `wharf audit`."""

from __future__ import annotations

import json
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when

event_app = typer.Typer(add_completion=False, help="What happened.", no_args_is_help=True)
audit_app = typer.Typer(add_completion=False, help="The proof that nobody changed what happened.", no_args_is_help=True)
COLUMNS: dict[str, Column] = {"#": "id", "At": when("at"), "Kind": "kind", "By": "actor_name", "Target": "target"}


@event_app.command("ls")
def ls(
    ctx: typer.Context,
    since: int | None = typer.Option(None, help="Events after this number; default: the newest."),
    kind: str = typer.Option("", help="A kind, or a prefix that ends with a dot: 'service.'"),
    target: str = typer.Option("", help="service/<id>"),
    limit: int = typer.Option(50, min=1, max=500),
) -> None:
    """List events, oldest first."""
    session = Session.of(ctx)
    rows = session.get("/api/v1/events", since=since, kind=kind, target=target, limit=limit)
    session.table(rows, COLUMNS)


@event_app.command("watch")
def watch(ctx: typer.Context, since: int | None = typer.Option(None, help="Begin after this number; default: now.")) -> None:
    """Print events as they happen, until Ctrl-C."""
    session = Session.of(ctx)
    with session.stream("/api/v1/events", since=since, stream="ndjson") as lines:
        for line in lines:
            if line.strip():
                typer.echo(line if session.as_json else _line(json.loads(line)))


def _line(event: dict[str, Any]) -> str:
    return f"{when('at')(event)}  {event['kind']:24}  {event['actor_name']:12}  {event['target']}"


@audit_app.callback()
def audit() -> None:
    """The proof that nobody changed what happened."""  # a callback keeps `verify` a word of its own: more will follow


@audit_app.command("verify")
def verify(ctx: typer.Context) -> None:
    """Walk the hash chain of all events; exit code 1 when one was changed, removed or reordered."""
    session = Session.of(ctx)
    report = session.get("/api/v1/events/verify")
    if session.as_json:
        session.show(report)
    else:
        for finding in report["findings"]:
            typer.echo(f"{finding['kind']:10} {finding['sequence']}  {finding['detail']}")
    if report["findings"]:
        raise Failure(f"{len(report['findings'])} findings in {report['checked']} events.")
    if not session.as_json:
        typer.echo(f"{report['checked']} events: unchanged.")
