"""Pull counters: counted in memory, written in batches, lost for at most FLUSH_SECONDS when a web process dies."""

from __future__ import annotations

import threading
import time
from collections import Counter

from django.db import transaction
from django.db.models import F

from registry.models import Repository

FLUSH_SECONDS = 5.0
FLUSH_NAMES = 500

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_flushed_at = time.monotonic()


def count(full_name: str) -> None:
    """One pull of `full_name`. Does no I/O."""
    with _lock:
        _counts[full_name] += 1


def due() -> bool:
    with _lock:
        return bool(_counts) and (len(_counts) >= FLUSH_NAMES or time.monotonic() - _flushed_at > FLUSH_SECONDS)


def flush() -> int:
    """Write what was counted, in one transaction; returns the number of pulls."""
    global _flushed_at  # one counter a process
    with _lock:
        pending = dict(_counts)
        _counts.clear()
        _flushed_at = time.monotonic()
    with transaction.atomic():
        # Sorted, so that two processes that flush at once lock the rows in one order.
        for name in sorted(pending):
            Repository.objects.filter(full_name=name).update(pulls=F("pulls") + pending[name])
    return sum(pending.values())
