"""Celery: a message says "there is work, look". Losing every message costs a few seconds, for workers also look by themselves."""

from __future__ import annotations

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

WAKE = "controlplane.wake"

app = Celery("wharfinger", set_as_current=True)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    task_ignore_result=True,
    task_acks_late=False,  # acked on receipt: a redelivery after the visibility timeout can then never run a job twice
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_connection_max_retries=None,
    task_publish_retry=False,
    broker_transport_options={"socket_connect_timeout": 2.0, "socket_keepalive": True},
)


def ring(job_id: str = "") -> None:
    """Wake one worker. Never raises: the row is already committed, and the workers' own look finds it."""
    try:
        app.send_task(WAKE, args=[job_id], ignore_result=True, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("doorbell_silent", job=job_id, error=str(error))
