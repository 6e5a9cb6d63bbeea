"""`wharf job` and `wharf schedule`."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when

app = typer.Typer(add_completion=False, help="Background work of the control plane.", no_args_is_help=True)
schedule_app = typer.Typer(add_completion=False, help="When jobs run by themselves.", no_args_is_help=True)
POLL = 1.0  # seconds between looks at a job that is followed


def _progress(job: Any) -> str:
    done, total = job["progress"]["done"], job["progress"]["total"]
    return f"{done}/{total}" if total else str(done or "")


@app.command("ls")
def ls(
    ctx: typer.Context,
    kind: str = typer.Option("", help="Only this kind."),
    state: str = typer.Option("", help="queued, running, done, error, cancelled or lost."),
    limit: int = typer.Option(50, help="How many, newest first; 0: all."),
) -> None:
    """List jobs."""
    session = Session.of(ctx)
    rows = session.pages("/api/v1/jobs", limit=limit, kind=kind, state=state)
    columns: dict[str, Column] = {
        "ID": "id",
        "Kind": "kind",
        "State": "state",
        "Progress": _progress,
        "By": "actor_name",
        "Created": when("created_at"),
    }
    session.table(rows, {**columns, "Error": "error"})


@app.command("inspect")
def inspect(ctx: typer.Context, job: str) -> None:
    """Show one job with its attempts."""
    session = Session.of(ctx)
    session.show(session.get(f"/api/v1/jobs/{job}"))


@app.command("run")
def run(
    ctx: typer.Context,
    kind: str,
    payload: str = typer.Argument("{}", help="A JSON object."),
    follow: bool = typer.Option(
        False, "--follow", "-f", help="Show the log until it ends; the exit code is 1 unless it is done."
    ),
) -> None:
    """Run a job now."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise Failure(f"The payload is no JSON: {error}", 2) from None
    session = Session.of(ctx)
    job = session.post("/api/v1/jobs", {"kind": kind, "payload": body})
    if follow:
        _follow(session, job["id"])
    else:
        session.say(job["id"], job)


@app.command("logs")
def logs(ctx: typer.Context, job: str, follow: bool = typer.Option(False, "--follow", "-f", help="Until the job ends.")) -> None:
    """Print a job's log."""
    session = Session.of(ctx)
    if follow:
        _follow(session, job)
    else:
        _print_log(session, job, 0)


def _print_log(session: Session, job: str, after: int) -> int:
    while chunks := session.get(f"/api/v1/jobs/{job}/log", after=after):
        for chunk in chunks:
            typer.echo(chunk["text"], nl=False)
        after = chunks[-1]["seq"]
    return after


def _follow(session: Session, job: str) -> None:
    after = 0
    while True:
        state = session.get(f"/api/v1/jobs/{job}")
        after = _print_log(session, job, after)
        if state["state"] not in {"queued", "running"}:
            break
        time.sleep(POLL)
    if state["state"] != "done":
        raise Failure(f"The job ended as {state['state']}. {state['error']}".strip())


@app.command("cancel")
def cancel(ctx: typer.Context, job: str) -> None:
    """Ask a job to stop."""
    session = Session.of(ctx)
    answer = session.post(f"/api/v1/jobs/{job}/cancel")
    session.say("Cancelled." if answer["state"] == "cancelled" else "Asked to stop.", answer)


@app.command("retry")
def retry(ctx: typer.Context, job: str) -> None:
    """Run a job that has ended once more."""
    session = Session.of(ctx)
    answer = session.post(f"/api/v1/jobs/{job}/retry")
    session.say(answer["id"], answer)


@app.command("kinds")
def kinds(ctx: typer.Context) -> None:
    """List what can run."""
    session = Session.of(ctx)
    rows = session.get("/api/v1/job-kinds")
    session.table(rows, {"Kind": "name", "Needs": "operation", "Attempts": "max_attempts", "Does": "description"})


@schedule_app.command("ls")
def schedules(ctx: typer.Context) -> None:
    """List schedules."""
    session = Session.of(ctx)
    rows = session.pages("/api/v1/schedules")
    session.table(rows, {"Name": "name", "Kind": "kind", "Cron (UTC)": "cron", "Enabled": "enabled", "Next": when("next_due")})


@schedule_app.command("set")
def set_schedule(
    ctx: typer.Context,
    name: str,
    cron: str = typer.Option("", help="Six fields, seconds first, UTC: '0 30 3 * * *'."),
    enabled: bool | None = typer.Option(None, "--enable/--disable"),
) -> None:
    """Change when a schedule runs, or whether."""
    session = Session.of(ctx)
    body = {**({"cron": cron} if cron else {}), **({} if enabled is None else {"enabled": enabled})}
    if not body:
        raise Failure("Say --cron, --enable or --disable.", 2)
    answer = session.patch(f"/api/v1/schedules/{name}", body)
    session.say(f"{name} runs next at {answer['next_due']}." if answer["enabled"] else f"{name} is disabled.", answer)
