"""What follows a fact: webhooks, promotion, mirroring. Each is a reaction to events, run by the job registry.react.

A reaction has a cursor of its own, a row. Handling an event and moving the cursor are one transaction: a kill in between does
neither, so that each event is handled exactly once as far as the database goes, in order. What a handler does outside of the
database it leaves to jobs that it enqueues in that transaction.

A handler that raises is asked again after a pause that doubles; after MAX_ATTEMPTS the event is recorded as
`registry.reaction_skipped` and left behind. Meanwhile the other reactions go on.

    @reaction("promotion", "tag.pushed", "scan.")
    def promote(event: Event) -> None: ...

A module with reactions is named in MODULES. A new reaction begins with the events after its first run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module

import structlog
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.events.models import ChainHead, Event
from controlplane.jobs import enqueue
from registry.models import ReactionCursor

log = structlog.get_logger(__name__)

MODULES: tuple[str, ...] = (
    "registry.actions.deliveries",
    "registry.actions.evictions",
    "registry.actions.mirror_runs",
    "registry.actions.promotion",
)
JOB = "registry.react"
BATCH = 100
MAX_ATTEMPTS = 8
BACKOFF = 5.0  # seconds before the second attempt, doubled each time: 10 minutes in all
PACE = 1.0  # seconds; a process asks for at most one run in this time

Handler = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Reaction:
    """`kinds`: of the events it wants, whole ("tag.pushed") or as a prefix with a dot at its end ("tag.")."""

    name: str
    handler: Handler
    kinds: tuple[str, ...]

    def wants(self, kind: str) -> bool:
        return any(kind.startswith(wanted) if wanted.endswith(".") else kind == wanted for wanted in self.kinds)

    @property
    def filter(self) -> Q:
        found = Q()
        for kind in self.kinds:
            found |= Q(kind__startswith=kind) if kind.endswith(".") else Q(kind=kind)
        return found


REACTIONS: dict[str, Reaction] = {}


def reaction(name: str, *kinds: str) -> Callable[[Handler], Handler]:
    """Registers a handler of the events of these kinds. It must bear to be asked twice about one event."""

    def register(handler: Handler) -> Handler:
        REACTIONS[name] = Reaction(name, handler, kinds)
        return handler

    return register


def load() -> None:
    """Imports the modules that hold reactions."""
    for module in MODULES:
        import_module(module)


def run(check: Callable[[], None] = lambda: None) -> dict[str, int]:
    """Every reaction up to the newest event; returns how many events each handled. `check` raises when it is time to stop."""
    load()
    done = {name: _catch_up(item, check) for name, item in sorted(REACTIONS.items())}
    waiting = ReactionCursor.objects.filter(name__in=REACTIONS, retry_at__isnull=False).order_by("retry_at").first()
    if waiting is not None:
        # A key of its own: a wake-up for the others must not find this later job queued and be content with it.
        enqueue(JOB, actor=SYSTEM, dedup_key=f"{JOB}:retry", run_after=waiting.retry_at)
    return done


def _catch_up(item: Reaction, check: Callable[[], None]) -> int:
    cursor = _cursor(item.name)
    position, count = cursor.position, 0
    if cursor.retry_at is not None and cursor.retry_at > timezone.now():
        return 0
    while True:
        newest = _newest()  # before the look: what commits after it is the next round's
        batch = list(Event.objects.filter(item.filter, id__gt=position, id__lte=newest).order_by("id")[:BATCH])
        for event in batch:
            check()
            if not _handle(item, position, event):
                return count
            position, count = event.id, count + 1
        if len(batch) < BATCH:
            if newest > position:
                ReactionCursor.objects.filter(pk=item.name, position=position).update(position=newest)
            return count


def _cursor(name: str) -> ReactionCursor:
    return ReactionCursor.objects.get_or_create(name=name, defaults={"position": _newest()})[0]


def _newest() -> int:
    return ChainHead.objects.filter(pk=1).values_list("sequence", flat=True).first() or 0


def _handle(item: Reaction, position: int, event: Event) -> bool:
    """One event with its cursor. False when the reaction stops here: it failed, or another runner was faster."""
    try:
        with transaction.atomic():
            # The cursor first: its row lock keeps a second runner out, and it sees our position when it gets in.
            mine = ReactionCursor.objects.filter(pk=item.name, position=position)
            if not mine.update(position=event.id, attempts=0, retry_at=None, error="", updated_at=timezone.now()):
                return False
            item.handler(event)
    except Exception as error:  # noqa: BLE001  # whatever one reaction raises is written down and must not stop the others
        return _failed(item.name, position, event, error)
    return True


def _failed(name: str, position: int, event: Event, error: Exception) -> bool:
    """Writes down a failed attempt. True when it was the last one and the event is left behind."""
    log.warning("reaction_failed", reaction=name, number=event.id, kind=event.kind, error=repr(error))
    text = f"{type(error).__name__}: {error}"[:500]
    with transaction.atomic():
        row = ReactionCursor.objects.select_for_update().filter(pk=name, position=position).first()
        if row is None:
            return False
        row.attempts, row.error = row.attempts + 1, text
        skipped = row.attempts >= MAX_ATTEMPTS
        if skipped:
            row.position, row.attempts, row.retry_at = event.id, 0, None
        else:
            row.retry_at = _retry_at(row.attempts)
        row.save()
        if skipped:
            events.record(
                "registry.reaction_skipped",
                actor=SYSTEM,
                target=event.target,
                collection_path=event.collection_path,
                data={"reaction": name, "event": event.id, "kind": event.kind, "error": text},
            )
    return skipped


def _retry_at(attempts: int) -> datetime:
    return timezone.now() + timedelta(seconds=BACKOFF * 2 ** (attempts - 1))


class _Waker:
    """Asks for a run after a commit: the first at once, those that follow within PACE together at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = float("-inf")  # when a run was last asked for that may have begun by now
        self._later = False  # one is asked for that begins at the end of the pace

    def due(self) -> float | None:
        """Seconds after which to run; None when a run that has not begun is asked for already."""
        with self._lock:
            now = time.monotonic()
            rest = self._asked + PACE - now
            if rest <= 0:
                self._asked, self._later = now, False
                return 0.0
            if self._later:
                return None
            self._later = True
            return rest


_waker = _Waker()


def notice(event: Event) -> None:
    """Called after the commit of every event. Never raises: a wake-up that is lost is made up for by the schedule."""
    if not any(item.wants(event.kind) for item in REACTIONS.values()):
        return
    delay = _waker.due()
    if delay is None:
        return
    after = timezone.now() + timedelta(seconds=delay) if delay else None
    try:
        enqueue(JOB, actor=SYSTEM, dedup_key=JOB, run_after=after)
    except DatabaseError as error:
        log.warning("reactions_not_woken", error=str(error))
