"""`wharf proxy`: namespaces that show what another registry has. A client of the REST interface; no Django."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session

app = typer.Typer(add_completion=False, help="Namespaces that cache another registry.", no_args_is_help=True)
_SECRET = typer.Option(None, "--secret-file", help="File with the password or token there.")
_CA = typer.Option(None, "--ca", help="File with the CA of the registry's certificate, PEM.")


def _text(path: Path | None) -> str:
    try:
        return path.read_text("utf-8").rstrip("\n") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {error}", 2) from None


@app.command("ls")
def ls(ctx: typer.Context) -> None:
    """List the proxies."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {"ID": "id", "Namespace": "namespace", "Registry": "url", "Prefix": "prefix"}
    session.table(session.pages("/api/v1/proxies"), columns)


@app.command("create")
def create(
    ctx: typer.Context,
    namespace: str = typer.Argument(..., help="New or empty."),
    url: str = typer.Argument(..., help="https://host[:port] of the other registry."),
    prefix: str = typer.Option("", help="NAMESPACE/app here is PREFIX/app there."),
    username: str = typer.Option(""),
    secret_file: Path | None = _SECRET,
    ca: Path | None = _CA,
    insecure: bool = typer.Option(False, "--insecure", help="Do not check the registry's certificate."),
    public: bool = typer.Option(False, "--public", help="Everybody may pull through it, without a login."),
    fresh: int = typer.Option(60, help="Seconds for which a tag is not asked about again."),
    keep_days: int = typer.Option(30, help="Days after the last pull; 0: for ever."),
) -> None:
    """Show another registry's repositories in a namespace, and keep what is pulled."""
    session = Session.of(ctx)
    body: dict[str, Any] = {"namespace": namespace, "url": url, "prefix": prefix, "username": username}
    body |= {"secret": _text(secret_file), "tls_ca": _text(ca), "tls_verify": not insecure}
    body |= {"visibility": "public" if public else "private", "fresh": fresh, "keep_days": keep_days}
    made = session.post("/api/v1/proxies", body)
    session.say(f"{namespace}/… shows {url}.", made)


@app.command("rm")
def rm(ctx: typer.Context, proxy: str) -> None:
    """Remove a proxy; what it kept stays as ordinary repositories."""
    session = Session.of(ctx)
    session.delete(f"/api/v1/proxies/{proxy}", etag="*")
    session.say(f"Removed the proxy {proxy}.", {"id": proxy})
