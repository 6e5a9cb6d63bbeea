"""A process that does to the database what a web process would: one JSON command a line in, one answer a line out."""

from __future__ import annotations

import json
import sys
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup()
from django.db import OperationalError, connection  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from controlplane.jobs import actions, enqueue  # noqa: E402  # after setup()
from controlplane.jobs.models import Job, Worker  # noqa: E402  # after setup()


def migrate() -> None:
    call_command("migrate", verbosity=0, interactive=False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE test_effects (job varchar(25), step varchar(20))")


def start(kind: str, **payload: Any) -> str:
    return enqueue(kind, payload, actor=SYSTEM).id


def states() -> dict[str, Any]:
    return {
        row.id: [row.state, row.attempt, row.fence, row.done, row.error] for row in Job.objects.filter(kind__startswith="test.")
    }


def log(job_id: str) -> str:
    return "".join(Job.objects.get(pk=job_id).log.values_list("text", flat=True))


def effects() -> list[list[str]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT job, step FROM test_effects")
        return [list(row) for row in cursor.fetchall()]


def cancel(job_id: str) -> str:
    return actions.cancel(SYSTEM, Job.objects.get(pk=job_id)).state


def workers() -> list[int]:
    return list(Worker.objects.values_list("pid", flat=True))


def writable(job_id: str) -> bool:
    """Can the job's row be written within half a second? Not while a stopped process is inside a transaction on it."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout=500" if connection.vendor == "sqlite" else "SET lock_timeout='500ms'")
        try:
            cursor.execute("UPDATE jobs_job SET text = text WHERE id = %s", [job_id])
        except OperationalError:
            return False
        finally:
            cursor.execute("PRAGMA busy_timeout=20000" if connection.vendor == "sqlite" else "SET lock_timeout=0")
    return True


COMMANDS = {function.__name__: function for function in (migrate, start, states, log, effects, cancel, workers, writable)}

for line in sys.stdin:
    name, positional, keywords = json.loads(line)
    answer = COMMANDS[name](*positional, **keywords)  # type: ignore[operator]  # the functions above
    print(json.dumps(answer), flush=True)
