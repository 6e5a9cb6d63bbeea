"""ORM calls from event loops: plain synchronous functions in a bounded pool of threads, each with its own database connection.

Nothing here holds a connection while it waits for a client or a node: a function is one short call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import close_old_connections, connection

from agent.protocol.errors import Throttled

P = ParamSpec("P")
T = TypeVar("T")


class Rows:
    """A pool of `threads` for one room, so that the number of its database connections is known."""

    def __init__(self, name: str, threads: int, backlog: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = threads + backlog
        self._running = 0

    async def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an ORM function. Raises `Throttled` when too many wait already."""
        if self._running >= self._slots:
            raise Throttled("the control plane is busy; try again in a moment", retry_after=2)
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: _with_connection(call, *args, **kwargs))
        finally:
            self._running -= 1


def _with_connection(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    # The thread keeps its connection; one that the database closed is replaced after the call that found it out.
    try:
        return call(*args, **kwargs)
    except Exception:
        if connection.connection is not None and connection.errors_occurred:
            close_old_connections()
        raise
