"""`wharf container`: what runs on the nodes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from controlplane.cli.session import Column, Failure, Session
from nodes.cli.quantities import age_text, parse_pairs, ports_text

app = typer.Typer(add_completion=False, help="Containers on the nodes.", no_args_is_help=True)
PATH = "/api/v1/containers"
SLOWEST = 120.0  # seconds that an act on a node may take


def container_names() -> list[str]:
    """For shell completion; nothing when nobody is signed in or the server is away."""
    try:
        return [row["name"] for row in Session().pages(PATH)]
    except Failure:
        return []


def find_container(session: Session, text: str) -> dict[str, Any]:
    """The container that `text` names: an id or its beginning, a name, or the name of the task that it runs for: web.1.

    Raises Failure.
    """
    try:
        found: dict[str, Any] = session.get(f"{PATH}/{quote(text, safe='')}")
        return found
    except Failure as failure:
        if failure.exit_code != 3:
            raise
    rows = [row for row in session.pages(PATH) if row["name"].startswith(f"{text}.") and row["state"] != "exited"]
    if not rows:
        raise Failure(f"There is no container {text}, or you may not see it. `wharf container ls -a` lists them.", 3)
    if len(rows) > 1:
        raise Failure(f"Several containers are meant by {text}: {', '.join(row['name'] for row in rows)}.", 2)
    return dict(rows[0])


Container = Annotated[
    str, typer.Argument(help="Name, id, the beginning of the id, or SERVICE.SLOT.", autocompletion=container_names)
]
Containers = Annotated[list[str], typer.Argument(help="Names, ids, or SERVICE.SLOT.", autocompletion=container_names)]


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
    from nodes.cli.service import find_service

    session = Session.of(ctx)
    query: dict[str, Any] = {
        "node": find_node(session, node)["id"] if node else "",
        "service": find_service(session, service)["id"] if service else "",
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
    session.show(find_container(session, container))


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
            path = f"{PATH}/{find_container(session, name)['id']}/{verb}"
            done.append(finished(session, session.post(path, body)))
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
        path = f"{PATH}/{find_container(session, name)['id']}"
        answer = session.call("DELETE", path, params={"force": "true"} if force else {})
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
    session = Session.of(ctx)
    print_logs(session, args, container=find_container(session, container)["id"])


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
    session = Session.of(ctx)
    try:
        with open_stream(session, "exec", args, container=find_container(session, container)["id"]) as stream:
            code = run(stream, stdin=interactive, terminal=terminal)
    except Failure as failure:
        problem = failure.problem or {}
        if problem.get("code") == "exec_failed":  # the shell's numbers, as Docker has them
            missing = (problem.get("extra") or {}).get("errno") in {errno.ENOENT, errno.ENOTDIR}
            raise Failure(failure.sentence, 127 if missing else 126, problem) from None
        raise
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
    session = Session.of(ctx)
    with open_stream(session, "attach", {"stdin": stdin}, container=find_container(session, container)["id"]) as stream:
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

    session = Session.of(ctx)
    show(session, [find_container(session, name)["id"] for name in containers or ()], once=once)
