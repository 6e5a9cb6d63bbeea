"""What a job's function is given: progress, log, stop signals, and the fence round its effects."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now

from controlplane.events import hints
from controlplane.jobs.claim import Claim
from controlplane.jobs.models import LogChunk, Step
from controlplane.jobs.stops import Cancelled, Fenced, Interrupted

FLUSH_AFTER = 1.0  # seconds
CHUNK = 64 << 10  # bytes of log a row
PROGRESS_EVERY = 0.5  # seconds


class Signals:
    """Set by whoever watches the job (the worker's keeper, or a signal handler in a child), read by the job."""

    def __init__(self) -> None:
        self.fenced = threading.Event()
        self.cancelled = threading.Event()
        self.leaving = threading.Event()
        self.any = threading.Event()

    def raise_one(self, event: threading.Event) -> None:
        event.set()
        self.any.set()


class JobContext:
    """One attempt. Its methods may be called from any thread of the job."""

    def __init__(self, claim: Claim, signals: Signals) -> None:
        self.claim = claim
        self.signals = signals
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._size = 0
        self._first_at = 0.0
        self._progress_at = 0.0

    @property
    def job_id(self) -> str:
        return self.claim.job_id

    @property
    def attempt(self) -> int:
        """1 at first; an interrupted attempt does not count."""
        return self.claim.attempt

    def check(self) -> None:
        """Raises Fenced, Cancelled or Interrupted when the job must stop. Cheap: call it in every loop."""
        if self.signals.fenced.is_set():
            raise Fenced(self.job_id)
        if self.signals.cancelled.is_set():
            raise Cancelled(self.job_id)
        if self.signals.leaving.is_set():
            raise Interrupted(self.job_id)

    def wait(self, seconds: float) -> None:
        """Sleep that ends at once, by raising, when the job must stop."""
        self.signals.any.wait(seconds)
        self.check()

    def progress(self, done: int, total: int = 0, text: str = "") -> None:
        """Shows `done` of `total` (0: unknown); written at most twice a second, the last step always. Also flushes the log."""
        self.check()
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_EVERY and done != total:
            return
        self._progress_at = now
        if not self.claim.mine().update(done=done, total=total, text=text[:200], updated_at=Now()):
            raise Fenced(self.job_id)
        hints.publish("jobs", {"id": self.job_id})
        self.flush()

    def log(self, text: str) -> None:
        """One line for the job's log. Kept until a second has passed or 64 KiB are there."""
        with self._lock:
            if not self._lines:
                self._first_at = time.monotonic()
            self._lines.append(text.rstrip("\n").replace("\0", "\ufffd") + "\n")  # PostgreSQL stores no NUL
            self._size += len(text) + 1
            full = self._size >= CHUNK or time.monotonic() - self._first_at >= FLUSH_AFTER
        if full:
            self.flush()

    @property
    def flush_due(self) -> bool:
        with self._lock:
            return bool(self._lines) and time.monotonic() - self._first_at >= FLUSH_AFTER

    def flush(self) -> None:
        """Writes the log kept so far. Raises Fenced."""
        with self._lock:
            text, self._lines, self._size = "".join(self._lines), [], 0
        if not text:
            return
        with self.fenced():
            last = LogChunk.objects.filter(job_id=self.job_id).aggregate(last=Max("seq"))["last"] or 0
            pieces = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
            LogChunk.objects.bulk_create(
                LogChunk(job_id=self.job_id, seq=last + number, attempt=self.claim.attempt, text=piece)
                for number, piece in enumerate(pieces, 1)
            )
        hints.publish("jobs.log", {"id": self.job_id, "seq": last + len(pieces)})

    @contextlib.contextmanager
    def fenced(self) -> Iterator[None]:
        """A transaction that commits only while the job is ours: put every effect on rows inside. Raises Fenced."""
        if self.signals.fenced.is_set():
            raise Fenced(self.job_id)
        with transaction.atomic():
            if not self.claim.mine().update(updated_at=Now()):
                raise Fenced(self.job_id)
            yield

    @contextlib.contextmanager
    def once(self, step: str) -> Iterator[bool]:
        """`fenced()` for an effect that must happen once over all attempts: yields False when an earlier one has done `step`.

        with ctx.once(f"delete:{digest}") as first:
            if first: …
        """
        with self.fenced():
            try:
                with transaction.atomic():
                    Step.objects.create(job_id=self.job_id, name=step, fence=self.claim.fence)
            except IntegrityError:
                first = False
            else:
                first = True
            yield first
