"""Reading at a limited rate, so that maintenance leaves the disk and the line to clients."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """`rate` in bytes a second, 0 for no limit. `pause` sleeps and may raise when the work must stop."""

    def __init__(self, rate: float, pause: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._pause, self._clock = rate, pause, clock
        self._free_at = clock()

    def took(self, count: int) -> None:
        """After `count` bytes: wait until they were due."""
        if not self._rate:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - 1) + count / self._rate  # idle time is saved up for a second at most
        if self._free_at > now:
            self._pause(self._free_at - now)
