"""`wharf webhook`: who is told about what happens in repositories. A client of the REST interface; no Django."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when

_TYPES = typer.Option(["TAG_PUSH"], "--type", "-t", help="TAG_PUSH, SCAN_COMPLETED, …; may be given again.")
_CA = typer.Option(None, "--ca", help="File with the CA of the endpoint's certificate, PEM.")
app = typer.Typer(add_completion=False, help="Endpoints that are told about pushes, scans and mirrors.", no_args_is_help=True)


def _scope(row: Any) -> str:
    return str(row["repository"] or (f"{row['namespace']}/" if row["namespace"] else "everything"))


def _state(row: Any) -> str:
    return "active" if row["active"] else row["disabled_reason"] or "off"


def _types(row: Any) -> str:
    return ", ".join(row["types"])


def _pem(ca: Path | None) -> str:
    try:
        return ca.read_text("ascii") if ca else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{ca} cannot be read as PEM: {error}", 2) from None


@app.command("ls")
def ls(
    ctx: typer.Context,
    repository: str = typer.Option("", help="Only of this repository."),
    namespace: str = typer.Option("", help="Only of this namespace."),
) -> None:
    """List the webhooks that you may change."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "ID": "id",
        "Of": _scope,
        "Types": _types,
        "URL": "url",
        "State": _state,
        "Last success": when("last_success_at"),
    }
    session.table(session.pages("/api/v1/webhooks", repository=repository, namespace=namespace), columns)


@app.command("create")
def create(
    ctx: typer.Context,
    url: str = typer.Argument(..., help="https://…; answers with 2xx when it has the message."),
    types: list[str] = _TYPES,
    repository: str = typer.Option("", help="Of this repository…"),
    namespace: str = typer.Option("", help="… or of this namespace; neither: of everything (administrators)."),
    cloudevents: bool = typer.Option(False, "--cloudevents", help="CloudEvents 1.0 instead of Docker's envelope."),
    ca: Path | None = _CA,
    insecure: bool = typer.Option(False, "--insecure", help="Do not check the endpoint's certificate."),
) -> None:
    """Subscribe an endpoint. Its secret is printed once: it signs every delivery."""
    session = Session.of(ctx)
    body: dict[str, Any] = {"url": url, "types": types, "tls_verify": not insecure, "tls_ca": _pem(ca)}
    body["format"] = "cloudevents" if cloudevents else "dtr"
    body |= {"repository": repository} if repository else {"namespace": namespace} if namespace else {}
    made = session.post("/api/v1/webhooks", body)
    session.say(f"Created the webhook {made['id']}. Its secret, which is not shown again: {made['secret']}", made)


@app.command("on")
def on(ctx: typer.Context, webhook: str) -> None:
    """Switch a webhook on again; its failures are forgotten."""
    _switch(Session.of(ctx), webhook, active=True)


@app.command("off")
def off(ctx: typer.Context, webhook: str) -> None:
    """Switch a webhook off; its log stays."""
    _switch(Session.of(ctx), webhook, active=False)


def _switch(session: Session, webhook: str, *, active: bool) -> None:
    path = f"/api/v1/webhooks/{webhook}"
    answer = session.patch(path, {"active": active}, etag=session.etag(path))
    session.say(f"The webhook {webhook} is {'on' if active else 'off'}.", answer)


@app.command("secret")
def secret(ctx: typer.Context, webhook: str) -> None:
    """Give a webhook a new secret; the old one signs nothing any more."""
    session = Session.of(ctx)
    made = session.post(f"/api/v1/webhooks/{webhook}/secret", {})
    session.say(f"The new secret, which is not shown again: {made['secret']}", made)


@app.command("test")
def test(ctx: typer.Context, webhook: str) -> None:
    """Send a sample; `wharf webhook log` shows how it went."""
    session = Session.of(ctx)
    made = session.post(f"/api/v1/webhooks/{webhook}/test", {})
    session.say(f"Sent as delivery {made['id']}.", made)


@app.command("log")
def log(ctx: typer.Context, webhook: str, limit: int = typer.Option(50, help="How many, newest first; 0: all.")) -> None:
    """Show a webhook's deliveries."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Delivery": "id",
        "At": when("created_at"),
        "Type": "type",
        "Subject": "subject",
        "State": "state",
        "Attempts": "attempts",
        "Status": "status",
        "Error": "error",
    }
    session.table(session.pages(f"/api/v1/webhooks/{webhook}/deliveries", limit=limit), columns)


@app.command("redeliver")
def redeliver(ctx: typer.Context, webhook: str, delivery: str) -> None:
    """Send a delivery once more, under the id that the endpoint knows."""
    session = Session.of(ctx)
    made = session.post(f"/api/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver", {})
    session.say(f"Sent again as delivery {made['id']}.", made)


@app.command("rm")
def rm(ctx: typer.Context, webhook: str) -> None:
    """Remove a webhook with its log."""
    session = Session.of(ctx)
    session.delete(f"/api/v1/webhooks/{webhook}", etag="*")
    session.say(f"Removed the webhook {webhook}.", {"id": webhook})
