"""`celery -A controlplane.celery worker --pool threads`: a worker process. Its messages are wake-ups, see controlplane.jobs."""

from __future__ import annotations

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
# Django's checks import every view: 15 MB in a process that answers no request. The web process and the tests run them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")
django.setup()

from celery import signals  # noqa: E402  # needs the settings

from controlplane import notify  # noqa: E402  # likewise
from controlplane.jobs.doorbell import WAKE, app  # noqa: E402  # likewise
from controlplane.jobs.keeper import Keeper  # noqa: E402  # likewise

__all__ = ["app"]

_keepers: list[Keeper] = []


@app.task(name=WAKE)  # type: ignore[untyped-decorator]  # celery is published without types
def wake(job_id: str = "") -> None:
    """There is work, perhaps this job; the most urgent one is claimed."""
    for keeper in _keepers:
        keeper.work()


@signals.worker_init.connect  # type: ignore[untyped-decorator]  # celery is published without types
def _start(sender: Any = None, **_: Any) -> None:
    keeper = Keeper(sender.concurrency or 4)
    keeper.start()
    _keepers.append(keeper)
    notify.send("READY=1")


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]  # celery is published without types
def _leave(**_: Any) -> None:
    for keeper in _keepers:
        keeper.leave()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]  # celery is published without types
def _stop(**_: Any) -> None:
    for keeper in _keepers:
        keeper.stop()
