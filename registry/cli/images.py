"""`wharf repo diff` and `where`: two images side by side, and where one runs."""

from __future__ import annotations

import typer

from controlplane.cli.session import Column, Session
from registry.cli.frame import app, find, size_text, split


@app.command("diff")
def diff(
    ctx: typer.Context,
    name: str,
    before: str = typer.Argument(..., help="A tag or digest."),
    after: str = typer.Argument(..., help="A tag or digest."),
) -> None:
    """What changed from one image to another: layers and configuration."""
    session = Session.of(ctx)
    answer = session.get(f"/api/v1/repositories/{find(session, name)['id']}/compare", before=before, after=after)
    if session.as_json:
        session.show(answer)
        return
    marks = (("+", "added"), ("-", "removed"), (" ", "kept"))
    layers = [{**layer, "mark": mark} for mark, key in marks for layer in answer[key]]
    columns: dict[str, Column] = {
        "": "mark",
        "Layer": "digest",
        "Size": lambda row: size_text(int(row["size"])),
        "Made by": "created_by",
    }
    session.table(layers, columns)
    session.table(answer["config"], {"Configuration": "name", "Before": "before", "After": "after"})
    session.say(f"{size_text(answer['to_pull'])} to pull for who has {before}.")


@app.command("where")
def where(ctx: typer.Context, image: str = typer.Argument(..., help="name[:tag] or name@digest")) -> None:
    """The tasks and containers that run an image now."""
    session = Session.of(ctx)
    name, target = split(image)
    answer = session.get(f"/api/v1/repositories/{find(session, name)['id']}/running/{target}")
    if session.as_json:
        session.show(answer)
        return
    session.table(answer["places"], {"Name": "name", "Kind": "kind", "State": "state", "Node": "node", "Id": "id"})
    if answer["hidden"]:
        session.say(f"{answer['hidden']} more that you may not see.")
