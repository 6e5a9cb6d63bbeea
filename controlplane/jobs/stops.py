"""Why a job must stop at once. Raised by `JobContext.check` and by everything that writes; a job lets them pass."""

from __future__ import annotations


class Stop(Exception):
    """Base: not an error of the job."""


class Cancelled(Stop):
    """Somebody asked for it."""


class Fenced(Stop):
    """The lease went to another worker: whatever this one still does must have no effect."""


class Interrupted(Stop):
    """The worker is leaving: the job goes back to the queue and the attempt does not count."""
