"""Web processes of the control plane, known to each other by rows."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from controlplane.jobs.clock import database_now
from controlplane.pki.server import hostnames
from nodes.models import WebProcess

LEASE = 15.0  # seconds


def announce(web_id: str, host: str, port: int, *, fingerprint: str) -> None:
    """Say where this process is, for LEASE seconds; forget those whose lease ran out long ago."""
    now = database_now()
    WebProcess.objects.update_or_create(
        id=web_id,
        defaults={"host": host, "port": port, "fingerprint": fingerprint, "lease_until": now + timedelta(seconds=LEASE)},
    )
    WebProcess.objects.filter(lease_until__lt=now - timedelta(seconds=10 * LEASE)).delete()


def leave(web_id: str) -> None:
    """The process ends: nobody need look for it."""
    WebProcess.objects.filter(pk=web_id).delete()


def own_host() -> str:
    """Where other web processes reach this one: as configured, else the listener's address, else the one used outwards."""
    if settings.INTERNAL_HOST:
        return str(settings.INTERNAL_HOST)
    if settings.ADDRESS not in ("0.0.0.0", "::", ""):  # noqa: S104  # compared, not bound
        return str(settings.ADDRESS)
    outward = [address for address in hostnames()[1] if address not in ("127.0.0.1", "::1")]
    return outward[-1] if outward else "127.0.0.1"
