"""`wharf login`, `wharf logout` and `wharf context`."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from typing import Any

import typer

from controlplane.cli import context as contexts
from controlplane.cli.context import Context
from controlplane.cli.session import Failure, Session, raise_for
from controlplane.home import default_home

login_app = typer.Typer(add_completion=False, help="Sign in to a control plane.")
logout_app = typer.Typer(add_completion=False, help="Sign out and revoke the token.")
context_app = typer.Typer(add_completion=False, help="Control planes you are signed in to.", no_args_is_help=True)


def bundle_digest(pem: str) -> str:
    """sha256 over the DERs of the roots in `pem`, sorted: what `wharf node token` and the launcher print."""
    blocks = [f"{part}-----END CERTIFICATE-----\n" for part in pem.split("-----END CERTIFICATE-----") if "BEGIN" in part]
    ders = sorted(ssl.PEM_cert_to_DER_cert(block.strip()) for block in blocks)
    return hashlib.sha256(b"".join(ders)).hexdigest()


def local_roots() -> str:
    """The roots of a control plane on this very host, if this user may read them: no question needs to be asked then."""
    home = os.environ.get("WHARF_HOME") or str(default_home())
    try:
        with open(os.path.join(home, "pki", "api-roots.pem"), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def fetch_roots(server: str, digest: str, *, yes: bool) -> str:
    """The PEM of the roots of `server`'s API, checked against `digest`, or shown to the person."""
    import httpx

    try:
        # Unverified on purpose: this is how the roots are learnt. They count only once their digest has been compared.
        answer = httpx.get(f"{server}/api/v1/pki/ca", verify=False, timeout=30)  # noqa: S501  # see above
    except httpx.TransportError as error:
        raise Failure(f"Cannot reach {server}: {error}", 5) from None
    raise_for(answer)
    data: dict[str, Any] = answer.json()
    found = bundle_digest(data["bundle"])
    if digest and digest.removeprefix("sha256:").lower() != found:
        raise Failure(f"This is another control plane, or somebody stands between: its roots have the digest {found}.", 4)
    if not digest and not yes:
        typer.echo(f"The roots of {server} have the digest\n  {found}", err=True)
        if not typer.confirm("Is it the one you were given?", err=True):
            raise Failure("Not signed in.", 4)
    return "".join(data["api"])


@login_app.command()
def login(
    ctx: typer.Context,
    server: str = typer.Argument("", help="https://<host>:8443; default: this host."),
    username: str = typer.Option("", "--username", "-u", help="Asked for when left out."),
    password_stdin: bool = typer.Option(False, help="Read the password from standard input."),
    ca_digest: str = typer.Option("", help="sha256 of the control plane's roots, as its first start prints it."),
    system_ca: bool = typer.Option(False, help="The server has a certificate that this host trusts anyway."),
    yes: bool = typer.Option(False, "--yes", help="Trust the roots that the server shows, unseen."),
    name: str = typer.Option("default", help="Name of the context."),
) -> None:
    """Sign in: a token for this host is kept in ~/.config/wharf/context.json, the password is not."""
    session = Session.of(ctx)
    server = (server or session._server or f"https://{socket.gethostname()}:{os.environ.get('WHARF_PORT', '8443')}").rstrip("/")
    if not server.startswith("https://"):
        raise Failure("The server's address begins with https://", 2)
    roots = "" if system_ca else _roots(server, ca_digest, yes=yes)
    username = username or typer.prompt("Username", err=True)
    password = (
        typer.get_text_stream("stdin").readline().rstrip("\n")
        if password_stdin
        else typer.prompt("Password", hide_input=True, err=True)
    )
    token = _token(server, roots, username, password)
    _, known = contexts.load()
    contexts.save(name, {**known, name: Context(server, roots, token["token"], username)})
    session.say(f"Signed in to {server} as {username}.", {"server": server, "user": username, "context": name})


def _roots(server: str, digest: str, *, yes: bool) -> str:
    if not digest:
        mine = local_roots()
        if mine and _accepts(server, mine):
            return mine
    return fetch_roots(server, digest, yes=yes)


def _accepts(server: str, roots: str) -> bool:
    import httpx

    try:
        httpx.get(f"{server}/healthz", verify=ssl.create_default_context(cadata=roots), timeout=10)
    except httpx.TransportError:
        return False
    return True


def _token(server: str, roots: str, username: str, password: str) -> dict[str, Any]:
    import httpx

    trust = ssl.create_default_context(cadata=roots or None)
    body = {"username": username, "password": password, "name": f"wharf on {socket.gethostname()} {os.urandom(3).hex()}"}
    try:
        answer = httpx.post(f"{server}/api/v1/login", json=body, verify=trust, timeout=30)
    except httpx.TransportError as error:
        raise Failure(f"Cannot reach {server}: {error}", 5) from None
    if answer.status_code == 401:
        raise Failure(str(answer.json().get("detail", "The name or the password is wrong.")), 4)
    raise_for(answer)
    made: dict[str, Any] = answer.json()
    return made


@logout_app.command()
def logout(ctx: typer.Context) -> None:
    """Revoke this host's token and forget it."""
    session = Session.of(ctx)
    current, known = contexts.load()
    chosen = session._name or current
    token = session.context.token
    try:
        session.delete(f"/api/v1/tokens/{token.split('_')[1]}")
    finally:
        known.pop(chosen, None)
        contexts.save(next(iter(known), "default") if chosen == current else current, known)
    session.say("Signed out.", {"context": chosen})


@context_app.command("ls")
def ls(ctx: typer.Context) -> None:
    """List the contexts."""
    current, known = contexts.load()
    rows = [{"name": name, "server": item.server, "user": item.user, "current": name == current} for name, item in known.items()]
    Session.of(ctx).table(
        rows, {"": lambda row: "*" if row["current"] else " ", "Name": "name", "Server": "server", "User": "user"}
    )


@context_app.command("use")
def use(ctx: typer.Context, name: str) -> None:
    """Talk to another control plane from now on."""
    _, known = contexts.load()
    if name not in known:
        raise Failure(f"There is no context {name}. `wharf context ls` lists them.", 3)
    contexts.save(name, known)
    Session.of(ctx).say(f"Now talking to {known[name].server}.", {"context": name})
