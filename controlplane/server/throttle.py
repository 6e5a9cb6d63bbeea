"""How fast a listener takes new connections.

uvicorn's `limit_concurrency` is no use for links: upgrades bypass it but count towards it, so 10,000 nodes that come back at
once would shut out HTTP. Here the listener simply accepts no faster than the bucket fills; the rest wait in the kernel's
backlog, where they cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved. `clock` gives monotonic seconds."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = burst
        self.clock = clock
        self.tokens = burst
        self.at = clock()

    def take(self) -> float:
        """Take one token, in debt if need be. Returns the seconds to wait before using it (0 when one was saved)."""
        now = self.clock()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        self.tokens -= 1
        return max(0.0, -self.tokens / self.rate)

    async def wait(self) -> None:
        """Return when a new connection may be taken."""
        delay = self.take()
        if delay:
            await asyncio.sleep(delay)
