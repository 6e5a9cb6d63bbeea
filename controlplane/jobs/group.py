"""A heavy job in a process group of its own: a cancel ends it and everything it started, a dead worker takes it along.

Parent and child share three things: the child's stdin, a pipe that nobody writes (its end means that the worker is gone), the
signals SIGTERM (cancel) and SIGUSR1 (the worker is leaving), and a file for the outcome.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from controlplane.jobs.claim import Claim
from controlplane.jobs.context import Signals
from controlplane.jobs.stops import Cancelled, Fenced, Interrupted


class ProcessFailed(Exception):
    """The job's process failed; the text says how."""


def run(claim: Claim, signals: Signals) -> dict[str, Any] | None:
    """Runs `claim` in a child. Returns its result; raises Cancelled, Fenced, Interrupted or ProcessFailed."""
    with tempfile.TemporaryFile() as outcome:
        command = [
            sys.executable,
            "-m",
            "controlplane.jobs.child",
            str(outcome.fileno()),
            claim.job_id,
            str(claim.fence),
            claim.worker,
        ]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=[outcome.fileno()])
        try:
            _watch(child, claim, signals)
        finally:
            _end_group(child)
        outcome.seek(0)
        return _outcome(outcome.read(), child.returncode, signals)


def _ended(child: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT: the dead leader keeps the group's number taken until _end_group has used it.
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _watch(child: subprocess.Popen[bytes], claim: Claim, signals: Signals) -> None:
    deadline: float | None = None
    while not _ended(child):
        if signals.fenced.is_set() or (deadline is not None and time.monotonic() > deadline):
            return
        if signals.any.is_set():
            if deadline is None:
                os.killpg(child.pid, signal.SIGTERM if signals.cancelled.is_set() else signal.SIGUSR1)
                deadline = time.monotonic() + claim.kind.stop_timeout
            time.sleep(0.05)
        else:
            signals.any.wait(0.2)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _outcome(data: bytes, code: int, signals: Signals) -> dict[str, Any] | None:
    if signals.fenced.is_set():
        raise Fenced
    told = json.loads(data) if data else {}
    if told.get("outcome") == "done":
        result: dict[str, Any] | None = told["result"]
        return result
    if signals.cancelled.is_set():
        raise Cancelled
    if signals.leaving.is_set():
        raise Interrupted
    if told.get("outcome") == "error":
        raise ProcessFailed(told["error"])
    raise ProcessFailed(f"the job's process ended by signal {-code}" if code < 0 else f"the job's process exited with {code}")
