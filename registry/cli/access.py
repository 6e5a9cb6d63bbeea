"""`wharf repo access`, `give`, `take`, `activity`: who may do what in a repository, and who did what."""

from __future__ import annotations

from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import app, find


@app.command("access")
def access(
    ctx: typer.Context,
    name: str,
    user: str = typer.Option("", help="Explain every operation for this user,"),
    team: str = typer.Option("", help="or for this team: organisation/team,"),
    org: str = typer.Option("", help="or for every member of this organisation,"),
    robot: str = typer.Option("", help="or for this robot: namespace+name."),
) -> None:
    """Who may do what in a repository, and why."""
    session = Session.of(ctx)
    path = f"/api/v1/repositories/{find(session, name)['id']}/access"
    asked = {kind: value for kind, value in (("user", user), ("team", team), ("org", org), ("robot", robot)) if value}
    if len(asked) > 1:
        raise Failure("Say one of --user, --team, --org and --robot.", 2)
    if asked:
        columns: dict[str, Column] = {
            "Operation": "operation",
            "Allowed": lambda row: "yes" if row["allowed"] else "no",
            "Why": "reason",
        }
        session.table(session.get(f"{path}/explain", **asked), columns)
        return
    session.table(session.get(path), {"Who": _who, "May": "level", "Why": "why", "Grant": "grant_id"})


def _who(row: Any) -> str:
    return row["who"] if row["kind"] in {"admins", "everybody"} else f"{row['kind']} {row['who']}"


@app.command("give")
def give(
    ctx: typer.Context,
    name: str,
    role: str = typer.Argument(..., help="read, read-write, admin, or the name of a role."),
    user: str = typer.Option("", help="To this user,"),
    team: str = typer.Option("", help="or to this team: organisation/team,"),
    org: str = typer.Option("", help="or to every member of this organisation."),
    namespace: bool = typer.Option(False, "--namespace", help="In the whole namespace, also what is made later."),
) -> None:
    """Give a user, a team or an organisation a right in a repository."""
    session = Session.of(ctx)
    given = [(kind, value) for kind, value in (("user", user), ("team", team), ("org", org)) if value]
    if len(given) != 1:
        raise Failure("Say one of --user, --team and --org.", 2)
    kind, subject = given[0]
    body = {"kind": kind, "name": subject, "role": role, "whole_namespace": namespace}
    rows = session.post(f"/api/v1/repositories/{find(session, name)['id']}/access", body)
    where = f"{name.partition('/')[0]}/" if namespace else name
    session.say(f"{kind} {subject} has {role} in {where}.", rows)


@app.command("take")
def take(
    ctx: typer.Context, name: str, grant: str = typer.Argument(..., help="The grant, as `wharf repo access` shows it.")
) -> None:
    """Take a right away that was given in a repository or its namespace."""
    session = Session.of(ctx)
    session.delete(f"/api/v1/repositories/{find(session, name)['id']}/access/{grant}")
    session.say(f"Taken away; it counts no more in {name}.", {"removed": grant})


@app.command("activity")
def activity(
    ctx: typer.Context,
    name: str,
    kind: str = typer.Option("", help="pushes, deletes, settings, access, a kind of event, or a prefix: tag."),
    who: str = typer.Option("", help="The beginning of a name."),
    limit: int = typer.Option(50, "--limit", "-n", min=1),
) -> None:
    """Who did what in a repository, newest first."""
    session = Session.of(ctx)
    rows = session.pages(f"/api/v1/repositories/{find(session, name)['id']}/activity", limit=limit, kind=kind, who=who)
    session.table(rows, {"At": when("at"), "Who": "actor_name", "What": "text"})
