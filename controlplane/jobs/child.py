"""The child of controlplane.jobs.group: `python -m controlplane.jobs.child OUTCOME_FD JOB FENCE WORKER`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any


def _die_with_the_worker() -> None:
    """stdin is a pipe that only the worker holds: its end means that the worker was killed."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Runs the job and writes {"outcome", "result" | "error"} to OUTCOME_FD. Returns the exit code."""
    threading.Thread(target=_die_with_the_worker, daemon=True).start()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()
    from controlplane.jobs.claim import Claim
    from controlplane.jobs.context import JobContext, Signals
    from controlplane.jobs.declare import kind_of
    from controlplane.jobs.models import Job
    from controlplane.jobs.run import call
    from controlplane.jobs.stops import Stop

    outcome, job_id, fence, worker = int(arguments[0]), arguments[1], int(arguments[2]), arguments[3]
    job = Job.objects.get(pk=job_id)
    ctx = JobContext(Claim(job_id, kind_of(job.kind), job.payload, fence, job.attempt, worker), Signals())

    def on_signal(number: int, frame: FrameType | None) -> None:
        ctx.signals.raise_one(ctx.signals.cancelled if number == signal.SIGTERM else ctx.signals.leaving)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGUSR1, on_signal)
    threading.Thread(target=_flush, args=(ctx,), daemon=True).start()
    told: dict[str, Any]
    try:
        told = {"outcome": "done", "result": call(ctx)}
    except Stop as stop:
        told = {"outcome": "stopped", "error": type(stop).__name__}
    except Exception as error:  # noqa: BLE001  # whatever a job raises is its outcome
        ctx.log(traceback.format_exc())
        told = {"outcome": "error", "error": f"{type(error).__name__}: {error}"}
    ctx.flush()
    os.write(outcome, json.dumps(told).encode())
    return 0


def _flush(ctx: Any) -> None:
    from controlplane.jobs.stops import Fenced

    while True:
        time.sleep(1)
        try:
            if ctx.flush_due:
                ctx.flush()
        except Fenced:
            ctx.signals.raise_one(ctx.signals.fenced)
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
