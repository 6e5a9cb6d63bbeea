"""Reading blobs again, those first that nobody looked at for longest, to find what a disk has spoilt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from django.db.models import Sum
from django.utils import timezone

from agent.protocol.oci import Digest
from registry.actions import quarantine
from registry.actions.throttle import Throttle
from registry.models import Blob
from registry.storage.store import BlobStore

BATCH = 50
LISTED = 100  # digests that a report names


@dataclass
class Scrubbed:
    """`bad` and `missing` name what was quarantined, `restored` what came back from the trash."""

    blobs: int = 0
    size: int = 0
    bad: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    stopped: bool = False

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def scrub(
    store: BlobStore,
    *,
    days: float = 0,
    rate: float = 0,
    time_box: float | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
    pause: Callable[[float], None] = time.sleep,
) -> Scrubbed:
    """Read every live blob that was not verified within `days`, at most `rate` bytes a second (0: no limit).

    Each is marked when it was read, so that a run which ends early, by its `time_box` or by a kill, is gone on with.
    """
    until = None if time_box is None else time.monotonic() + time_box
    due = Blob.objects.filter(state=Blob.State.LIVE, verified_at__lt=timezone.now() - timedelta(days=days))
    total = due.aggregate(size=Sum("size"))["size"] or 0
    throttle, done = Throttle(rate, pause), Scrubbed()

    def read(count: int) -> None:
        throttle.took(count)
        done.size += count
        report(done.size, max(total, done.size), f"{done.blobs} blobs verified")

    while batch := list(due.order_by("verified_at", "id").values_list("id", "digest")[:BATCH]):
        for pk, text in batch:
            if until is not None and time.monotonic() > until:
                done.stopped = True
                return done
            _verify(store, pk, text, read, done)
    return done


def _verify(store: BlobStore, pk: int, text: str, read: Callable[[int], None], done: Scrubbed) -> None:
    if quarantine.check(store, Digest.parse(text), read) == quarantine.GOOD:
        verdict = quarantine.GOOD
    else:
        verdict = quarantine.judge(store, pk)
    done.blobs += 1
    found = {quarantine.BAD: done.bad, quarantine.MISSING: done.missing, quarantine.RESTORED: done.restored}.get(verdict)
    if found is not None and len(found) < LISTED:
        found.append(text)
    Blob.objects.filter(pk=pk).update(verified_at=timezone.now())
