"""Compaction: the oldest events go, a signed checkpoint stays, so that what is left can still be verified."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Conflict
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.events.anchor import sign
from controlplane.events.models import ChainHead, Checkpoint, Event

_BATCH = 5000


def compact(actor: Actor, *, before: datetime | None = None, keep: int | None = None) -> int:
    """Removes events older than `before`, or all but the newest `keep`; returns how many. The newest event always stays.

    Raises Conflict when the part to be removed does not verify: compaction must not wash a manipulation away.
    """
    last = _last(before, keep)
    if last is None:
        return 0
    _must_verify(last.id)
    with transaction.atomic():
        ChainHead.objects.select_for_update().get_or_create(pk=1)
        Checkpoint.objects.update_or_create(
            sequence=last.id,
            defaults={"hash": last.hash, "at": timezone.now(), "signature": sign("checkpoint", last.id, last.hash)},
        )
        Checkpoint.objects.filter(sequence__lt=last.id).delete()
        record("events.compacted", actor=actor, target="events", data={"through": last.id})
    return _delete_through(last.id)


def _last(before: datetime | None, keep: int | None) -> Event | None:
    rows = Event.objects.order_by("-id")
    newest = rows.first()
    if newest is None:
        return None
    rows = rows.filter(id__lt=newest.id)
    if before is not None:
        rows = rows.filter(at__lt=before)
    if keep is not None:
        rows = rows.filter(id__lte=newest.id - max(keep, 1))
    return rows.first() if before is not None or keep is not None else None


def _must_verify(last: int) -> None:
    from controlplane.events.verify import verify

    bad = [finding for finding in verify().findings if finding.sequence <= last]
    if bad:
        raise Conflict(f"The events do not verify ({bad[0].detail}): look into `wharf audit verify` before anything is removed.")


def _delete_through(last: int) -> int:
    """Removes in batches with a transaction each: SQLite has one write lock. What a crash leaves lies below the checkpoint."""
    removed = 0
    while (first := Event.objects.filter(id__lte=last).order_by("id").values_list("id", flat=True).first()) is not None:
        removed += Event.objects.filter(id__lte=min(last, first + _BATCH)).delete()[0]
    return removed


def compacted_through() -> int:
    """The number of the newest event that is gone; 0 when nothing was ever removed."""
    found = Checkpoint.objects.order_by("-sequence").values_list("sequence", flat=True).first()
    return int(found or 0)
