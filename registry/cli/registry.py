"""`wharf repo usage` and `settings`: of the whole registry."""

from __future__ import annotations

from typing import Any

import typer

from controlplane.cli.session import Column, Session, when
from registry.cli.frame import app, size_text


def _bytes(key: str) -> Column:
    return lambda row: size_text(int(row[key]))


@app.command("usage")
def usage(
    ctx: typer.Context,
    scope: str = typer.Argument("repository", help="registry, namespace or repository."),
    limit: int = typer.Option(50, "--limit", "-n", min=1),
) -> None:
    """How much is stored for whom, the largest first, as last counted."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Name": lambda row: row["name"] or "the registry",
        "Repositories": "repositories",
        "Blobs": "blobs",
        "Content": _bytes("logical"),
        "Stored": _bytes("stored"),
        "Its alone": _bytes("unique"),
        "Shared": _bytes("shared"),
        "Counted": when("at"),
    }
    session.table(session.pages("/api/v1/registry/usage", limit=limit, scope=scope), columns)


@app.command("settings")
def settings(
    ctx: typer.Context,
    create_on_push: bool | None = typer.Option(
        None, "--create-on-push/--no-create-on-push", help="May a push make a repository?"
    ),
) -> None:
    """Show or change the switches of the whole registry."""
    session = Session.of(ctx)
    path = "/api/v1/registry/settings"
    answer: dict[str, Any] = (
        session.get(path) if create_on_push is None else session.patch(path, {"create_on_push": create_on_push})
    )
    if session.as_json:
        session.show(answer)
        return
    session.table(
        [{"name": name, "on": "on" if on else "off"} for name, on in answer.items()], {"Setting": "name", "Value": "on"}
    )
