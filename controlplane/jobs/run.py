"""Runs one claimed job to its end, in this thread or in a process group of its own."""

from __future__ import annotations

import json
import traceback
from typing import Any

import structlog

from agent.protocol.errors import WharfError
from controlplane.events import hints
from controlplane.jobs import claim as claims
from controlplane.jobs import group
from controlplane.jobs.claim import Claim
from controlplane.jobs.context import JobContext
from controlplane.jobs.models import Job, JobState
from controlplane.jobs.stops import Cancelled, Fenced, Interrupted

log = structlog.get_logger(__name__)

RESULT_LIMIT = 64 << 10  # bytes of JSON


def run(ctx: JobContext) -> None:
    """Runs the job and writes how it ended. Raises only what the database raises."""
    claim = ctx.claim
    try:
        _run_and_end(ctx)
    except Fenced:
        # Another worker owns the job by now: nothing may be written, and nothing has been.
        log.warning("job_fenced", job=claim.job_id, kind=claim.kind.name, fence=claim.fence)
    hints.publish("jobs", {"id": claim.job_id})


def _run_and_end(ctx: JobContext) -> None:
    claim = ctx.claim
    try:
        result = group.run(claim, ctx.signals) if claim.kind.process else call(ctx)
        ctx.flush()
    except Fenced:
        raise
    except Cancelled:
        ctx.flush()
        claims.end(claim, JobState.CANCELLED)
    except Interrupted:
        ctx.flush()
        claims.release(claim)
    except Exception as error:  # noqa: BLE001  # whatever a job raises is its outcome, written to its row and log
        ctx.log(traceback.format_exc())
        ctx.flush()
        _failed(claim, error)
    else:
        claims.end(claim, JobState.DONE, result=result)


def call(ctx: JobContext) -> dict[str, Any] | None:
    """The kind's function, and its result as JSON data."""
    ctx.check()
    result = ctx.claim.kind.function(ctx, **ctx.claim.payload)
    if not isinstance(result, dict):
        return None
    text = json.dumps(result, default=str)
    if len(text) > RESULT_LIMIT:
        raise ValueError(f"the result of a job is at most {RESULT_LIMIT} bytes of JSON; write more into rows of your own")
    plain: dict[str, Any] = json.loads(text)
    return plain


def _failed(claim: Claim, error: Exception) -> None:
    sentence = error.detail if isinstance(error, WharfError) else f"{type(error).__name__}: {error}"
    # A refusal stays one however often it is asked: only errors with the retry bit, and surprises, get another attempt.
    hopeless = isinstance(error, WharfError) and not error.retry
    limit = Job.objects.filter(pk=claim.job_id).values_list("max_attempts", flat=True).first() or 1
    if hopeless or claim.attempt >= limit:
        claims.end(claim, JobState.ERROR, error=sentence)
    else:
        claims.again(claim, sentence)
