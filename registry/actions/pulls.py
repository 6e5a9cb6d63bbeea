"""Pulls: counted in memory, written in batches, lost for at most FLUSH_SECONDS when a web process dies.

Whatever goes by who pulls what takes its numbers from here: the repository's counter, and when a tag and a digest were last
pulled, by which retention rules decide.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import datetime

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from registry.models import Manifest, Repository, Tag

FLUSH_SECONDS = 5.0
FLUSH_NAMES = 500

Key = tuple[str, str, str]  # full name, tag or digest, name of who pulled

_lock = threading.Lock()
_counts: Counter[Key] = Counter()
_flushed_at = time.monotonic()


def count(full_name: str, target: str, actor: str) -> None:
    """One pull of a manifest of `full_name` by tag or digest. Does no I/O."""
    with _lock:
        _counts[full_name, target, actor] += 1


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
    totals: Counter[str] = Counter()
    targets: dict[str, set[str]] = {}
    for (name, target, _), pulls in pending.items():
        totals[name] += pulls
        targets.setdefault(name, set()).add(target)
    with transaction.atomic():
        now = timezone.now()
        # Sorted, so that two processes that flush at once lock the rows in one order (registry.models.blob).
        for name in sorted(totals):
            _mark(name, targets[name], now)
        for name in sorted(totals):
            Repository.objects.filter(full_name=name).update(pulls=F("pulls") + totals[name])
    return sum(pending.values())


def _mark(name: str, targets: set[str], now: datetime) -> None:
    """A pull by tag is one of its manifest too; clients that ask for the tag's digest first pull by digest alone."""
    digests = sorted(target for target in targets if ":" in target)
    names = sorted(targets.difference(digests))
    if digests:
        Manifest.objects.filter(repository__full_name=name, digest__in=digests).update(pulled_at=now)
    if names:
        Tag.objects.filter(repository__full_name=name, name__in=names).update(pulled_at=now)
