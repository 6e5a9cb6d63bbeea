"""Jobs whose effects can be counted, for tests of kill -9 and of the fence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from django.db import connection

from controlplane.jobs import Schedule, job


def _effect(job_id: str, step: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO test_effects (job, step) VALUES (%s, %s)", [job_id, step])


@job("test.effects", max_attempts=1000, lease=1.5, backoff=0.1)
def effects(ctx: Any, *, steps: int, pause: float = 0.02) -> dict[str, int]:
    """One row a step in a table without any unique constraint."""
    for number in range(steps):
        with ctx.once(f"step-{number}") as first:
            if first:
                _effect(ctx.job_id, str(number))
        ctx.log(f"step {number}")
        ctx.progress(number + 1, steps)
        ctx.wait(pause)
    return {"steps": steps}


@job("test.heavy", max_attempts=1000, lease=1.5, backoff=0.1, process=True, stop_timeout=2)
def heavy(ctx: Any, *, steps: int, pause: float = 0.02, grandchild: bool = False) -> dict[str, int]:
    """The same in a process group; with `grandchild` a process that ignores SIGTERM stands in it."""
    if grandchild:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        ctx.log(f"grandchild {child.pid}")
        ctx.flush()
    return effects(ctx, steps=steps, pause=pause)


@job("test.flaky", max_attempts=3, backoff=0.01)
def flaky(ctx: Any, *, good_at: int) -> None:
    """Fails before attempt `good_at`."""
    if ctx.attempt < good_at:
        raise RuntimeError(f"attempt {ctx.attempt} fails")


@job("test.deaf", lease=1.5)
def deaf(ctx: Any, *, seconds: float) -> None:
    """Never looks at its signals."""
    import time

    time.sleep(seconds)


@job("test.scarce", capacity={"scarce": 1}, max_attempts=1)
def scarce(ctx: Any) -> None:
    """One at a time on a worker."""


@job("test.single", single=True, max_attempts=1)
def single(ctx: Any) -> None:
    """One at a time in the cluster."""


SCHEDULES = [Schedule("test.scarce", "* * * * * *", name="every-second", enabled=False)]
