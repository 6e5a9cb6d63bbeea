"""A speed limit: a bucket that fills at so many bytes a second and holds a quarter of a second's worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Wait = Callable[[float], None]  # seconds; may raise to end the work


class Pace:
    """Shared by all transfers of one job. `rate` in kB/s (1,000 bytes); 0 = as fast as it goes."""

    def __init__(self, rate: int, wait: Wait = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate * 1000.0
        self._wait, self._clock = wait, clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, count: int) -> None:
        """Returns when `count` bytes more may have passed."""
        if self.rate <= 0:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - 0.25) + count / self.rate
            pause = self._free_at - now
        if pause > 0:
            self._wait(pause)

    @property
    def piece(self) -> int:
        """How many bytes to move between two looks: a tenth of a second's worth, 4 KiB to 1 MiB."""
        return 1 << 20 if self.rate <= 0 else min(1 << 20, max(4096, int(self.rate / 10)))
