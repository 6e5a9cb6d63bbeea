"""Waiting until a service is as wanted: how far it is, why it is not further, and when there is no hope."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.cli.session import Failure, Session

POLL = 0.3  # seconds between looks
HOLD = 1.5  # seconds that all tasks have to run before we believe it: a program that dies at once has "run" too
HOPELESS = 3  # ended tasks for every wanted one: it will not work by trying again
BAD = frozenset({"failed", "rejected"})
ENDED = BAD | {"complete", "shutdown", "orphaned"}
PROGRESS = ("new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running")


@dataclass(frozen=True, slots=True)
class Standing:
    """One look. `wanted` counts tasks, `reason` says what the slowest of them waits for, `hopeless` why waiting is over."""

    running: int
    wanted: int
    done: bool
    reason: str = ""
    hopeless: str = ""
    states: tuple[str, ...] = ()


def judge(
    service: Mapping[str, Any],
    tasks: Iterable[Mapping[str, Any]],
    *,
    expect_update: bool = False,
    expect_rollback: bool = False,
) -> Standing:
    """From a service and its tasks as REST shows them; `tasks` without those that had ended before the change."""
    rows = list(tasks)
    live = [task for task in rows if task["desired"] in PROGRESS and task["observed"] not in ENDED]
    running = sum(task["observed"] == "running" for task in live)
    spec = service["spec"]
    complete = sum(task["observed"] == "complete" for task in rows)
    wanted = spec["replicas"] if spec["mode"] == "replicated" else len(live)
    state = service["update_status"]["state"]
    moving = state in {"updating", "rollback_started"} or (expect_update and not state)
    stopped = state in {"paused", "rollback_paused"} or (state == "rollback_completed" and not expect_rollback)
    once = spec.get("restart", {}).get("condition", "any") != "any"  # complete tasks are then not replaced
    enough = running + (complete if once else 0) >= wanted and len(live) == running
    nowhere = spec["mode"] == "global" and not rows
    return Standing(
        running=running,
        wanted=wanted,
        done=enough and not moving and not nowhere,
        reason="no node fits its constraints" if nowhere else _reason(rows, live),
        hopeless=_halted(service, rows) if stopped else "" if enough and not moving else _hopeless(service, rows, live, wanted),
        states=tuple(sorted((task["observed"] for task in live), key=PROGRESS.index)),
    )


def _halted(service: Mapping[str, Any], rows: list[Any]) -> str:
    status = service["update_status"]
    return f"The update is {status['state'].replace('_', ' ')}: {status.get('message') or _failure(rows)}"


def _hopeless(service: Mapping[str, Any], rows: list[Any], live: list[Any], wanted: int) -> str:
    failed = [task for task in rows if task["observed"] in BAD]
    if failed and not live:
        waits = any(task["desired"] in PROGRESS for task in rows if task["observed"] not in ENDED)
        policy = service["spec"].get("restart", {}).get("condition", "any")
        if policy == "none" and not waits:
            return f"It has failed and is not restarted: {_failure(rows)}"
    if len(failed) >= HOPELESS * max(1, wanted):
        return f"Its tasks keep failing: {_failure(rows)}"
    return ""


def _failure(rows: list[Any]) -> str:
    """The newest failed task's error."""
    for task in rows:
        if task["observed"] in BAD:
            code = "" if task["exit_code"] is None else f"exit code {task['exit_code']}"
            memory = ", out of memory" if task["oom_killed"] else ""
            return (task["error"] or task["message"] or code or task["observed"]) + memory
    return "no task says why"


def _reason(rows: list[Any], live: list[Any]) -> str:
    """What the least advanced task waits for."""
    behind = sorted((task for task in live if task["observed"] != "running"), key=lambda task: PROGRESS.index(task["observed"]))
    if not behind:
        return _failure(rows) if any(task["observed"] in BAD for task in rows) else ""
    first = behind[0]
    why = first["why_pending"].get("text", "") if first["observed"] == "pending" else ""
    where = f" on {first['hostname']}" if first["hostname"] else ""
    return why or first["message"] or f"{first['observed']}{where}"


def wait(
    session: Session,
    service: Mapping[str, Any],
    *,
    timeout: float,
    show: Callable[[Standing], None],
    expect_update: bool = False,
    expect_rollback: bool = False,
) -> None:
    """Until the service is as wanted; `show` is told each look. Raises Failure when there is no hope or time is up."""
    path = f"/api/v1/services/{service['id']}"
    began = service["updated_at"]
    deadline = time.monotonic() + timeout
    since: float | None = None
    while True:
        now = session.get(path)
        tasks = [task for task in session.pages("/api/v1/tasks", service=service["id"]) if _counts(task, began)]
        tasks.sort(key=lambda task: str(task["created_at"]), reverse=True)
        standing = judge(now, tasks, expect_update=expect_update, expect_rollback=expect_rollback)
        show(standing)
        if standing.hopeless:
            raise Failure(f"Service {service['name']} did not come up. {standing.hopeless}")
        clock = time.monotonic()
        since = (since or clock) if standing.done else None
        if since is not None and (clock - since >= HOLD or standing.wanted == 0):
            return
        if clock >= deadline:
            raise Failure(
                f"Service {service['name']} has {standing.running} of {standing.wanted} tasks running after {timeout:g} seconds:"
                f" {standing.reason or 'not steady yet'}. It goes on trying; `wharf service ps {service['name']}` shows how far."
            )
        time.sleep(POLL)


def _counts(task: Mapping[str, Any], began: str) -> bool:
    return task["observed"] not in ENDED or str(task["created_at"]) >= began


class Display:
    """The standing as a bar with a sentence, on stderr; nothing when stderr is no terminal."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        import sys

        self._progress: Any = None
        self._bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[reason]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._bar = self._progress.add_task(name, total=None, reason="")

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, standing: Standing) -> None:
        """One look."""
        if self._progress is not None:
            self._progress.update(
                self._bar, total=standing.wanted, completed=min(standing.running, standing.wanted), reason=standing.reason[:120]
            )
