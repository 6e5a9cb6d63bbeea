"""`wharf user` and `wharf token`."""

from __future__ import annotations

import datetime
import secrets
from typing import Annotated

import typer

from controlplane.cli.session import Column, Failure, Session, when

user_app = typer.Typer(add_completion=False, help="Accounts.", no_args_is_help=True)
token_app = typer.Typer(add_completion=False, help="Access tokens.", no_args_is_help=True)


@user_app.command("ls")
def ls(ctx: typer.Context) -> None:
    """List users."""
    session = Session.of(ctx)
    rows = session.pages("/api/v1/users")
    session.table(rows, {"Name": "username", "Full name": "full_name", "Admin": "is_admin", "Active": "is_active"})


@user_app.command("create")
def create(
    ctx: typer.Context,
    username: str,
    full_name: str = typer.Option(""),
    email: str = typer.Option(""),
    admin: bool = typer.Option(False, help="An administrator may do everything."),
    password_stdin: bool = typer.Option(False, help="Read the password from standard input instead of making one."),
) -> None:
    """Make an account. Without --password-stdin a password is made and printed once."""
    session = Session.of(ctx)
    given = typer.get_text_stream("stdin").readline().rstrip("\n") if password_stdin else ""
    password = given or secrets.token_urlsafe(15)
    body = {"username": username, "full_name": full_name, "email": email, "is_admin": admin, "password": password}
    made = session.post("/api/v1/users", body)
    shown = "" if given else f" Password (shown this once): {password}"
    session.say(f"Made {made['username']}.{shown}", {**made, **({} if given else {"password": password})})


@user_app.command("password")
def password(ctx: typer.Context, username: str) -> None:
    """Set a password, read from standard input or asked for; the user's other sessions end."""
    session = Session.of(ctx)
    stdin = typer.get_text_stream("stdin")
    new = (
        typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
        if stdin.isatty()
        else stdin.readline().rstrip("\n")
    )
    body = {"password": new}
    if username == session.context.user and stdin.isatty():
        body["current"] = typer.prompt("Current password", hide_input=True, err=True)
    session.post(f"/api/v1/users/{username}/password", body)
    session.say(f"The password of {username} is set.", {"username": username})


@user_app.command("set")
def change(
    ctx: typer.Context,
    username: str,
    admin: bool | None = typer.Option(None, "--admin/--no-admin"),
    active: bool | None = typer.Option(None, "--activate/--deactivate"),
    full_name: str | None = typer.Option(None),
    email: str | None = typer.Option(None),
) -> None:
    """Change an account."""
    session = Session.of(ctx)
    given = {"is_admin": admin, "is_active": active, "full_name": full_name, "email": email}
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise Failure("Say what to change; `wharf user set --help` lists it.", 2)
    path = f"/api/v1/users/{username}"
    session.say(f"Changed {username}.", session.patch(path, body, etag=session.etag(path)))


@user_app.command("rm")
def remove(ctx: typer.Context, username: str) -> None:
    """Remove an account; its grants and tokens go with it."""
    session = Session.of(ctx)
    path = f"/api/v1/users/{username}"
    session.delete(path, etag=session.etag(path))
    session.say(f"Removed {username}.", {"username": username})


@token_app.command("ls")
def tokens(ctx: typer.Context) -> None:
    """List access tokens."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {"ID": "id", "Name": "name", "Expires": when("expires_at"), "Last used": when("last_used_at")}
    session.table(session.pages("/api/v1/tokens"), columns)


@token_app.command("create")
def create_token(
    ctx: typer.Context,
    name: str,
    scope: Annotated[list[str] | None, typer.Option(help="An operation or a glob, again for more: 'Service View'.")] = None,
    days: int = typer.Option(0, help="Until it expires; 0: never."),
) -> None:
    """Make a token and print it once."""
    session = Session.of(ctx)
    body: dict[str, object] = {"name": name}
    if scope:
        body["scopes"] = scope
    if days:
        body["expires_at"] = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).isoformat()
    made = session.post("/api/v1/tokens", body)
    session.say(made["token"], made)


@token_app.command("revoke")
def revoke(ctx: typer.Context, token: str) -> None:
    """Revoke a token by its ID."""
    session = Session.of(ctx)
    session.delete(f"/api/v1/tokens/{token}")
    session.say("Revoked.", {"id": token})
