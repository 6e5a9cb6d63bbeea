"""Pulls as events, only for those who subscribed to them: one event a repository, tag and batch, never one a pull."""

from __future__ import annotations

import threading
from collections import Counter

from django.db import transaction

from controlplane import events
from controlplane.api.actor import SYSTEM
from registry.models import Repository, Webhook
from registry.queries.webhooks import concerned

MAX_ENTRIES = 10_000  # of one batch; more images than that in five seconds are not told apart
_lock = threading.Lock()
_pulled: Counter[tuple[str, str, str]] = Counter()


def note(full_name: str, target: str, digest: str) -> None:
    """One pull of a manifest by tag or digest. Does no I/O."""
    with _lock:
        if len(_pulled) < MAX_ENTRIES:
            _pulled[full_name, "" if ":" in target else target, digest] += 1


def flush() -> int:
    """Record what somebody wants to hear of; returns how many events."""
    with _lock:
        batch = dict(_pulled)
        _pulled.clear()
    if not batch or not Webhook.objects.filter(active=True).exists():
        return 0
    recorded = 0
    for (name, tag, digest), count in sorted(batch.items()):
        if concerned(name, "TAG_PULL" if tag else "MANIFEST_PULL"):
            recorded += _record(name, tag, digest, count)
    return recorded


def _record(name: str, tag: str, digest: str, count: int) -> int:
    with transaction.atomic():
        row = Repository.objects.select_related("collection").filter(full_name=name).first()
        if row is None:
            return 0
        events.record(
            "tag.pulled" if tag else "manifest.pulled",
            actor=SYSTEM,
            target=f"repository/{row.pk}",
            collection_path=row.collection.path,
            data={"name": name, **({"tag": tag} if tag else {}), "digest": digest, "count": count},
        )
    return 1
