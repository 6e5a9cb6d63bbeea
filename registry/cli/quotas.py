"""`wharf repo quota` and `wharf repo read-only`: how much a namespace may hold, and when nothing may be pushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from controlplane.cli.session import Session, when
from registry.cli.frame import app, size_bytes, size_text

quota = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(quota, name="quota", help="Quotas of namespaces; each blob counts once.")
read_only = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(read_only, name="read-only", help="Refuse pushes and deletes for a while; pulls go on.")


def _bytes(key: str) -> Any:
    def show(row: Mapping[str, Any]) -> str:
        return size_text(int(row[key]))

    return show


@quota.command("show")
def show(ctx: typer.Context, namespace: str = typer.Argument("", help="This one alone.")) -> None:
    """Show the quotas of the namespaces that are yours."""
    session = Session.of(ctx)
    rows = [session.get(f"/api/v1/quotas/{namespace}")] if namespace else session.pages("/api/v1/quotas")
    columns = {
        "Namespace": "namespace",
        "Limit": _bytes("limit"),
        "Used": _bytes("used"),
        "On the way": _bytes("reserved"),
        "Set by": "set_by",
        "Counted": when("counted_at"),
    }
    session.table(rows, columns)


@quota.command("set")
def change(
    ctx: typer.Context,
    namespace: str,
    limit: str = typer.Argument(..., help='Bytes, such as 500MB or 20GB; "none" for no limit.'),
) -> None:
    """Limit a namespace, or lift its limit; what it holds counts at once."""
    session = Session.of(ctx)
    path = f"/api/v1/quotas/{namespace}"
    if limit == "none":
        session.delete(path)
        session.say(f"{namespace} has no quota.", {"namespace": namespace, "limit": None})
        return
    row = session.call("PUT", path, json={"limit": size_bytes(limit)}).json()
    session.say(f"{namespace} may hold {size_text(row['limit'])} and holds {size_text(row['used'])}.", row)


def _say(session: Session, row: Mapping[str, Any]) -> None:
    text = f"The registry is read-only since {when('since')(row)}, by {row['by']}: {row['reason']}"
    session.say(text if row["enabled"] else "The registry takes pushes and deletes.", row)


@read_only.command("on")
def on(ctx: typer.Context, reason: str = typer.Argument(..., help="Why; refused pushers read it.")) -> None:
    """Refuse pushes and deletes from now on."""
    session = Session.of(ctx)
    _say(session, session.call("PUT", "/api/v1/registry/read-only", json={"reason": reason}).json())


@read_only.command("off")
def off(ctx: typer.Context) -> None:
    """Take pushes and deletes again."""
    session = Session.of(ctx)
    session.delete("/api/v1/registry/read-only")
    _say(session, session.get("/api/v1/registry/read-only"))


@read_only.command("status")
def status(ctx: typer.Context) -> None:
    """Say whether the registry is read-only, and why."""
    session = Session.of(ctx)
    _say(session, session.get("/api/v1/registry/read-only"))
