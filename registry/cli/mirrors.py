"""`wharf repo mirror`: repositories kept equal with repositories elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import app as repo

app = typer.Typer(add_completion=False, help="Keep a repository here and one elsewhere equal.", no_args_is_help=True)
repo.add_typer(app, name="mirror")

_CA = typer.Option(None, "--ca", help="File with the CA of the registry's certificate, PEM.")
_TAGS = typer.Option([], "--tags", help="Only tags that match this pattern, like 'v*'; given again, all must match.")


def _state(row: Mapping[str, Any]) -> str:
    if not row["enabled"]:
        return "off"
    return str(row["error"] or ("done" if row["ran_at"] else "not run yet"))


def _remote(row: Mapping[str, Any]) -> str:
    return f"{str(row['url']).partition('://')[2]}/{row['remote_name']}"


def _body(url: str, remote_name: str, username: str, secret_file: Path | None, ca: Path | None, insecure: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"url": url, "remote_name": remote_name, "tls_verify": not insecure}
    try:
        if ca:
            body["tls_ca"] = ca.read_text("ascii")
        if secret_file:
            body["secret"] = secret_file.read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"A file cannot be read: {error}", 2) from None
    if username:
        body["username"] = username
        body.setdefault("secret", "" if secret_file else typer.prompt("Password or token there", hide_input=True))
    return body


_SECRET = typer.Option(None, "--secret-file", help="File with the password or token there; asked for when left out.")


@app.command("ls")
def ls(ctx: typer.Context, repository: str = typer.Argument("", help="Only of this repository.")) -> None:
    """List the mirrors that you may change."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "ID": "id",
        "Repository": "repository",
        "Direction": "direction",
        "Elsewhere": _remote,
        "Schedule": "cron",
        "Last run": when("ran_at"),
        "State": _state,
    }
    session.table(session.pages("/api/v1/mirrors", repository=repository), columns)


@app.command("create")
def create(
    ctx: typer.Context,
    repository: str = typer.Argument(..., help="namespace/name here."),
    direction: str = typer.Argument(..., help="push: ours goes there; pull: theirs comes here, and nobody else pushes here."),
    url: str = typer.Argument(..., help="https://host[:port] of the other registry."),
    remote_name: str = typer.Argument(..., help="The repository there."),
    username: str = typer.Option("", help='"<token>" with a refresh token as secret.'),
    secret_file: Path | None = _SECRET,
    ca: Path | None = _CA,
    insecure: bool = typer.Option(False, "--insecure", help="Do not check the registry's certificate."),
    tags: list[str] = _TAGS,
    cron: str = typer.Option("", help="When to compare both sides: 6 fields, seconds first, UTC: '0 */30 * * * *'."),
    on_push: bool = typer.Option(True, "--on-push/--no-on-push", help="push: also after each push here."),
    speed: int = typer.Option(0, help="kB/s; 0: as fast as it goes."),
    deletions: bool = typer.Option(False, "--deletions", help="Also remove what was mirrored and is gone."),
    check: bool = typer.Option(True, "--check/--no-check", help="Try the connection first."),
) -> None:
    """Mirror a repository to or from another registry."""
    session = Session.of(ctx)
    place = _body(url, remote_name, username, secret_file, ca, insecure)
    if check:
        session.post("/api/v1/mirrors/check", {"direction": direction, **place})
    rules = [{"field": "tag", "operator": "matches", "values": [pattern]} for pattern in tags]
    options = {"rules": rules, "cron": cron, "on_event": on_push, "speed": speed, "deletions": deletions}
    made = session.post("/api/v1/mirrors", {"repository": repository, "direction": direction, **place, **options})
    session.say(f"Created the mirror {made['id']} of {repository}.", made)


@app.command("run")
def run(ctx: typer.Context, mirror: str) -> None:
    """Compare both sides now; `wharf job logs -f ID` follows it."""
    session = Session.of(ctx)
    made = session.post(f"/api/v1/mirrors/{mirror}/run", {})
    session.say(made["job"], made)


@app.command("tags")
def tags(ctx: typer.Context, mirror: str) -> None:
    """Show what was mirrored last, tag by tag."""
    session = Session.of(ctx)
    session.table(session.pages(f"/api/v1/mirrors/{mirror}/tags"), {"Tag": "name", "Digest": "digest", "At": when("at")})


@app.command("on")
def on(ctx: typer.Context, mirror: str) -> None:
    """Switch a mirror on."""
    _switch(Session.of(ctx), mirror, enabled=True)


@app.command("off")
def off(ctx: typer.Context, mirror: str) -> None:
    """Switch a mirror off; a repository that it filled can be pushed to."""
    _switch(Session.of(ctx), mirror, enabled=False)


def _switch(session: Session, mirror: str, *, enabled: bool) -> None:
    path = f"/api/v1/mirrors/{mirror}"
    answer = session.patch(path, {"enabled": enabled}, etag=session.etag(path))
    session.say(f"The mirror {mirror} is {'on' if enabled else 'off'}.", answer)


@app.command("rm")
def rm(ctx: typer.Context, mirror: str) -> None:
    """Remove a mirror; what was mirrored stays on both sides."""
    session = Session.of(ctx)
    session.delete(f"/api/v1/mirrors/{mirror}", etag="*")
    session.say(f"Removed the mirror {mirror}.", {"id": mirror})
