"""The hash chain: each row's hash covers its canonical bytes and the hash before it.

Race-free on both databases: the head row's lock (SQLite: the write lock that IMMEDIATE takes at BEGIN) orders all appenders, and
since it is held until commit, ids become visible in order and without gaps. A reader of `id > n` therefore misses nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from agent.protocol.errors import Internal
from controlplane.api.actor import Actor
from controlplane.events import anchor, hints
from controlplane.events.models import ChainHead, Event

GENESIS = "0" * 64
TOPIC = "events"
OBSERVERS: list[Callable[[Event], None]] = []


def canonical(event: Event) -> bytes:
    """The bytes that are hashed: JSON with sorted keys, no blanks, UTF-8, UTC time in microseconds, without the hashes."""
    return json.dumps(
        {
            "id": event.id,
            "at": stamp(event.at),
            "kind": event.kind,
            "actor": [event.actor_kind, event.actor_id, event.actor_name],
            "target": event.target,
            "collection_path": event.collection_path,
            "data": event.data,
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode("utf-8", "surrogatepass")


def stamp(at: datetime) -> str:
    """A time as text that both databases give back unchanged."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def clean(value: Any) -> Any:
    """JSON data that both databases give back as it went in: jsonb refuses NUL and lone surrogates, 1e20 becomes an integer."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    return value


def link(previous: str, event: Event) -> str:
    """The hash of `event` on top of `previous`."""
    return hashlib.sha256(previous.encode() + b"\n" + canonical(event)).hexdigest()


def append(kind: str, *, actor: Actor, target: str, collection_path: str, data: dict[str, Any]) -> Event:
    """Adds one row. Raises Internal outside of a transaction: a fact and its record must commit together or not at all."""
    if not connection.in_atomic_block:
        raise Internal(f"The event {kind} was recorded outside of the transaction of its fact.")
    head, _ = ChainHead.objects.select_for_update().get_or_create(pk=1)
    event = Event(
        id=head.sequence + 1,
        at=timezone.now(),
        kind=kind,
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_name=clean(actor.name),
        target=clean(target),
        collection_path=clean(collection_path),
        data=clean(json.loads(json.dumps(data, default=str))),  # what the column gives back is what is hashed
        prev_hash=head.hash,
    )
    event.hash = link(head.hash, event)
    event.save(force_insert=True)
    ChainHead.objects.filter(pk=1).update(sequence=event.id, hash=event.hash)
    transaction.on_commit(lambda: _committed(event))
    return event


def _committed(event: Event) -> None:
    hints.publish(TOPIC, {"id": event.id, "kind": event.kind})
    anchor.maybe_write()
    for observer in OBSERVERS:
        observer(event)
