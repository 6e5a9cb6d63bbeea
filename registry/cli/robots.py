"""`wharf robot`: accounts of programs. Their secrets are shown once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import Many

app = typer.Typer(add_completion=False, help="Robots: accounts of programs at the registry.", no_args_is_help=True)
_RIGHT = "PATTERN=ACTION,…: 'team/*=pull,push'; actions: pull, push, delete, create."


def _find(session: Session, name: str) -> dict[str, Any]:
    rows = session.get("/api/v1/robots", name=name)
    if not rows:
        raise Failure(f"There is no robot {name}, or you may not see it.", 3)
    found: dict[str, Any] = rows[0]
    return found


def parse_right(text: str) -> dict[str, Any]:
    """ "team/*=pull,push" -> {"repositories": "team/*", "actions": ["pull", "push"]}. Raises Failure."""
    glob, equals, actions = text.partition("=")
    if not equals or not glob or not actions:
        raise Failure(f"{text!r} is no right. Write {_RIGHT}", 2)
    return {"repositories": glob.strip(), "actions": [action.strip() for action in actions.split(",") if action.strip()]}


def _state(row: Mapping[str, Any]) -> str:
    return "disabled" if row["disabled"] else "usable" if row["usable"] else "expired"


def _rights(row: Mapping[str, Any]) -> str:
    return "; ".join(f"{right['repositories']}={','.join(right['actions'])}" for right in row["rights"])


@app.command("ls")
def ls(ctx: typer.Context, namespace: str = typer.Option("", help="Only of this namespace.")) -> None:
    """List the robots that you can see."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Name": "name",
        "State": _state,
        "May": _rights,
        "From": lambda row: ", ".join(row["cidrs"]),
        "Expires": when("expires_at"),
        "Last used": when("last_used_at"),
        "Made by": "created_by",
    }
    session.table(session.pages("/api/v1/robots", namespace=namespace), columns)


@app.command("create")
def create(
    ctx: typer.Context,
    name: str,
    right: Annotated[list[str], typer.Option("--right", "-r", help=_RIGHT)],
    namespace: str = typer.Option("", help="Whose it is; without: the whole registry's, which administrators make."),
    days: int = typer.Option(90, min=0, help="Days until it expires; 0: never."),
    cidr: Annotated[Many, typer.Option("--cidr", help="It may come from this network only.")] = None,
    description: str = typer.Option("", help="One line."),
) -> None:
    """Create a robot and print its secret, once."""
    session = Session.of(ctx)
    body: dict[str, Any] = {"name": name, "namespace": namespace, "rights": [parse_right(text) for text in right]}
    body |= {"description": description, "cidrs": cidr or []}
    if days:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    _show(session, session.post("/api/v1/robots", body))


@app.command("rotate")
def rotate(ctx: typer.Context, name: str) -> None:
    """Give a robot a new secret and print it, once; the old one ends at once."""
    session = Session.of(ctx)
    _show(session, session.post(f"/api/v1/robots/{_find(session, name)['id']}/rotate", {}))


def _show(session: Session, made: Mapping[str, Any]) -> None:
    session.say(f"{made['name']}\n{made['secret']}", dict(made))


@app.command("set")
def change(
    ctx: typer.Context,
    name: str,
    right: Annotated[Many, typer.Option("--right", "-r", help=f"All its rights from now on. {_RIGHT}")] = None,
    days: int | None = typer.Option(None, min=0, help="Days from now until it expires; 0: never."),
    cidr: Annotated[Many, typer.Option("--cidr", help="All its networks from now on.")] = None,
    disabled: bool | None = typer.Option(None, "--disable/--enable"),
    description: str | None = typer.Option(None),
) -> None:
    """Change what a robot may do, or stop it for a while."""
    session = Session.of(ctx)
    given = {
        "rights": [parse_right(text) for text in right] if right else None,
        "cidrs": cidr or None,
        "disabled": disabled,
        "description": description,
    }
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None
    if not body:
        raise Failure("Say --right, --days, --cidr, --disable, --enable or --description.", 2)
    path = f"/api/v1/robots/{_find(session, name)['id']}"
    answer = session.patch(path, body, etag=session.etag(path))
    session.say(f"{name} is {_state(answer)}: {_rights(answer)}", answer)


@app.command("rm")
def rm(ctx: typer.Context, name: str) -> None:
    """Remove a robot; it can log in no more."""
    session = Session.of(ctx)
    path = f"/api/v1/robots/{_find(session, name)['id']}"
    session.delete(path, etag=session.etag(path))
    session.say(f"Removed {name}.", {"removed": name})
