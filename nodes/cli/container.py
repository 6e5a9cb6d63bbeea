"""`wharf container`: what runs on the nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from controlplane.cli.session import Column, Failure, Session
from nodes.cli.quantities import age_text, parse_pairs

app = typer.Typer(add_completion=False, help="Containers on the nodes.", no_args_is_help=True)
PATH = "/api/v1/containers"
SLOWEST = 120.0  # seconds that an act on a node may take


def container_names() -> list[str]:
    """For shell completion; nothing when nobody is signed in or the server is away."""
    try:
        return [row["name"] for row in Session().pages(PATH)]
    except Failure:
        return []


Container = Annotated[str, typer.Argument(help="Name, id, or the beginning of the id.", autocompletion=container_names)]
Containers = Annotated[list[str], typer.Argument(help="Names or ids.", autocompletion=container_names)]


def ports_text(row: Mapping[str, Any]) -> str:
    """ "8080->80/tcp, …" of a container or task."""
    return ", ".join(f"{port['host_port']}->{port['container_port']}/{port['protocol']}" for port in row["ports"] or ())


def _state(row: Mapping[str, Any]) -> str:
    if row["state"] == "exited":
        return "exited" if row["exit_code"] is None else f"exited ({row['exit_code']}{', OOM' if row['oom_killed'] else ''})"
    return str(row["state"]) + (f" ({row['health']})" if row["health"] not in {"", "none"} else "")


def _command(row: Mapping[str, Any]) -> str:
    command = row["command"]
    text = command if isinstance(command, str) else " ".join(command or ())
    return text if len(text) <= 40 else f"{text[:39]}…"


@app.command("ls")
def ls(
    ctx: typer.Context,
    everything: bool = typer.Option(False, "--all", "-a", help="Ended ones too."),
    node: str = typer.Option("", help="Only on this node."),
    service: str = typer.Option("", help="Only of this service."),
) -> None:
    """List containers."""
    from nodes.cli.node import find_node

    session = Session.of(ctx)
    query = {
        "node": find_node(session, node)["id"] if node else "",
        "service": session.get(f"/api/v1/services/{service}")["id"] if service else "",
    }
    rows = [row for row in session.pages(PATH, **query) if everything or row["state"] != "exited"]
    columns: dict[str, Column] = {
        "Name": "name",
        "ID": lambda row: str(row["container_id"])[:12],
        "Image": lambda row: str(row["image"]).partition("@")[0],
        "Command": _command,
        "State": _state,
        "Created": lambda row: age_text(row["created_at"]),
        "Ports": ports_text,
        "Node": "hostname",
    }
    session.table(rows, columns)


@app.command("inspect")
def inspect(ctx: typer.Context, container: Container) -> None:
    """Show one container."""
    session = Session.of(ctx)
    session.show(session.get(f"{PATH}/{container}"))


def finished(session: Session, action: Mapping[str, Any], seconds: float = SLOWEST) -> dict[str, Any]:
    """The action once its node has answered. Raises Failure when it refused or is silent."""
    deadline = time.monotonic() + seconds
    row = dict(action)
    while row["state"] == "queued" and time.monotonic() < deadline:
        time.sleep(0.3)
        row = session.get(f"/api/v1/actions/{row['id']}")
    if row["state"] in {"failed", "expired"}:
        error = row["error"] or {}
        raise Failure(str(error.get("detail") or "The node did not answer in time."), 1 if row["state"] == "failed" else 5, error)
    if row["state"] == "queued":
        raise Failure(f"The node has not answered yet; the action is {row['id']}.", 5)
    return row


def _each(ctx: typer.Context, containers: list[str], verb: str, body: dict[str, Any], said: str) -> None:
    """One act on each; all are tried, the first failure is told at the end."""
    session = Session.of(ctx)
    failure: Failure | None = None
    done: list[dict[str, Any]] = []
    for name in containers:
        try:
            done.append(finished(session, session.post(f"{PATH}/{name}/{verb}", body)))
        except Failure as error:
            failure = failure or Failure(f"{name}: {error.sentence}", error.exit_code, error.problem)
        else:
            if not session.as_json:
                session.say(f"{said} {name}.")
    if session.as_json:
        session.say("", done)
    if failure is not None:
        raise failure


@app.command("start")
def start(ctx: typer.Context, containers: Containers) -> None:
    """Start containers that have ended or were never started."""
    _each(ctx, containers, "start", {}, "Started")


GRACE = typer.Option(None, "--time", "-t", min=0, max=3600, help="Seconds before SIGKILL; default: the container's own.")


@app.command("stop")
def stop(ctx: typer.Context, containers: Containers, grace: float | None = GRACE) -> None:
    """Ask containers to end, then kill them. One of a service is replaced."""
    _each(ctx, containers, "stop", {} if grace is None else {"grace": grace}, "Stopped")


@app.command("restart")
def restart(ctx: typer.Context, containers: Containers, grace: float | None = GRACE) -> None:
    """Stop and start containers."""
    _each(ctx, containers, "restart", {} if grace is None else {"grace": grace}, "Restarted")


@app.command("kill")
def kill(
    ctx: typer.Context, containers: Containers, signal: str = typer.Option("SIGKILL", "--signal", "-s", help="SIGHUP, TERM, 9 …")
) -> None:
    """Send a signal to containers' first process."""
    _each(ctx, containers, "kill", {"signal": signal.upper()}, f"Sent {signal.upper()} to")


@app.command("pause")
def pause(ctx: typer.Context, containers: Containers) -> None:
    """Freeze all processes of containers."""
    _each(ctx, containers, "pause", {}, "Paused")


@app.command("unpause")
def unpause(ctx: typer.Context, containers: Containers) -> None:
    """Let frozen containers go on."""
    _each(ctx, containers, "unpause", {}, "Unpaused")


@app.command("rm")
def remove(
    ctx: typer.Context,
    containers: Containers,
    force: bool = typer.Option(False, "--force", "-f", help="Kill those that run."),
) -> None:
    """Remove containers from their nodes."""
    session = Session.of(ctx)
    for name in containers:
        answer = session.call("DELETE", f"{PATH}/{name}", params={"force": "true"} if force else {})
        row = finished(session, answer.json())
        session.say(f"Removed {name}.", row)


@app.command("logs")
def logs(
    ctx: typer.Context,
    container: Container,
    follow: bool = typer.Option(False, "--follow", "-f", help="Until the container ends."),
    tail: str = typer.Option("all", "--tail", "-n", help="So many lines of the end."),
    since: str = typer.Option("", help="10m, 2h, or a time such as 2026-01-31T12:00:00Z."),
    until: str = typer.Option("", help="Likewise."),
    timestamps: bool = typer.Option(False, "--timestamps", "-t"),
) -> None:
    """Print what a container wrote."""
    from nodes.cli.logs import arguments, print_logs

    args = arguments(follow=follow, tail=tail, since=since, until=until, timestamps=timestamps)
    print_logs(Session.of(ctx), args, container=container)


def _needs_terminal(terminal: bool, stdin: bool) -> None:
    if terminal and stdin and not os.isatty(0):
        raise Failure("The input is no terminal: leave -t out.", 2)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    ctx: typer.Context,
    container: Container,
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    interactive: bool = typer.Option(False, "--interactive", "-i", help="Standard input goes to the process."),
    terminal: bool = typer.Option(False, "--tty", "-t", help="With a terminal."),
    user: str = typer.Option("", "--user", "-u", help="name|uid[:group|gid]"),
    workdir: str = typer.Option("", "--workdir", "-w"),
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="KEY=VALUE, or KEY of this shell.")] = None,
) -> None:
    """Run a program in a container; its exit code is ours. Ctrl-C goes to it with -it."""
    from nodes.cli.streaming import open_stream
    from nodes.cli.terminal import run, window

    _needs_terminal(terminal, interactive)
    rows, cols = window()
    # TERM as here: without it no program in the container knows what the terminal can do
    known = {"TERM": os.environ["TERM"]} if terminal and os.environ.get("TERM") else {}
    args: dict[str, Any] = {
        "command": command,
        "env": {**known, **parse_pairs(env or (), "--env", defaults=dict(os.environ))},
        "user": user,
        "cwd": workdir,
        "tty": terminal,
        "stdin": interactive,
        "rows": rows,
        "cols": cols,
    }
    with open_stream(Session.of(ctx), "exec", args, container=container) as stream:
        code = run(stream, stdin=interactive, terminal=terminal)
    raise typer.Exit(code)


@app.command("attach")
def attach(
    ctx: typer.Context,
    container: Container,
    stdin: bool = typer.Option(True, "--stdin/--no-stdin", help="Standard input goes to the process."),
    terminal: bool = typer.Option(False, "--tty", "-t", help="The container was made with a terminal; ctrl-p ctrl-q leaves it."),
) -> None:
    """See what a container writes from now on, and write to it; ends with it."""
    from nodes.cli.streaming import open_stream
    from nodes.cli.terminal import run

    _needs_terminal(terminal, stdin)
    with open_stream(Session.of(ctx), "attach", {"stdin": stdin}, container=container) as stream:
        code = run(stream, stdin=stdin, terminal=terminal)
    raise typer.Exit(code)


@app.command("stats")
def stats(
    ctx: typer.Context,
    containers: Annotated[list[str] | None, typer.Argument(help="Default: all that run.", autocompletion=container_names)] = None,
    once: bool = typer.Option(False, "--no-stream", help="Print one table and end."),
) -> None:
    """Usage of running containers, live."""
    from nodes.cli.stats import show

    show(Session.of(ctx), containers or [], once=once)
