"""The policy version: the number of the last event that can change anybody's rights.

Every write records its event in its own transaction, and events are numbered in commit order, so this number is as fresh as the
rights themselves: a decision cached under it is void in the very moment a grant, a team, a user or a repository changes.
"""

from __future__ import annotations

import threading

from django.db.models import Q

from controlplane.events.models import Event
from registry.queries import statements

_STANDING = ("policy", "quota", "read_only")  # registry.queries.standing
_SUBJECTS = (
    "user",
    "organisation",
    "membership",
    "team",
    "token",
    "role",
    "grant",
    "collection",
    "repository",
    "namespace",
    "robot",
    "proxy",
)


class _Clock:
    """Reads only the events that came since the last look: one indexed query that normally returns nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: int | None = None
        self._version = 0
        self._standing = 0

    def version(self) -> int:
        if self._seen is None:
            return self._start()
        found = statements.events_after(self._seen)
        if not found:
            return self._version
        with self._lock:
            self._seen = max(self._seen, found[-1][0])
            changed = [number for number, kind in found if kind.partition(".")[0] in _SUBJECTS]
            self._version = max([self._version, *changed])
            self._standing = max([self._standing, *(number for number, kind in found if kind.partition(".")[0] in _STANDING)])
            return self._version

    def standing(self, *, fresh: bool) -> int:
        """The last event seen that changed a policy, a quota or read-only mode. Asks the database when `fresh` or at first."""
        if fresh or self._seen is None:
            self.version()
        return self._standing

    def _start(self) -> int:
        kinds = Q()
        for subject in _SUBJECTS:
            kinds |= Q(kind__startswith=f"{subject}.")
        last = Event.objects.order_by("-id").values_list("id", flat=True).first() or 0
        version = Event.objects.filter(kinds, id__lte=last).order_by("-id").values_list("id", flat=True).first() or 0
        with self._lock:
            self._seen = max(self._seen or 0, last)
            self._version = max(self._version, version)
            self._standing = max(self._standing, last)
            return self._version

    def forget(self) -> None:
        """For tests that empty the table."""
        with self._lock:
            self._seen, self._version, self._standing = None, 0, 0


clock = _Clock()


def version() -> int:
    """Blocks for one small query."""
    return clock.version()
