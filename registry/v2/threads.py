"""Two bounded pools: one for rows, one for files.

Apart, so that a disk which is slow to sync never holds up a HEAD that needs only a row, and so that the number of database
connections of a web process is known. ORM calls and file calls are plain synchronous functions; nothing here holds a connection
while it waits for a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import close_old_connections, connection

from agent.protocol.errors import Throttled

ROW_THREADS = 6
FILE_THREADS = 12
BACKLOG = 2000  # calls that may wait for a row thread before clients are told to come back

P = ParamSpec("P")
T = TypeVar("T")

_rows = ThreadPoolExecutor(ROW_THREADS, thread_name_prefix="registry-rows")
_files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="registry-files")


async def rows(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an ORM function. Raises Throttled when too many wait already."""
    if _rows._work_queue.qsize() > BACKLOG:
        raise Throttled("the registry is busy; try again in a moment", retry_after=2)
    return await asyncio.get_running_loop().run_in_executor(_rows, lambda: _with_connection(call, *args, **kwargs))


async def files(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call of the blob store to its end, even when the request is cancelled: its descriptors must not be closed meanwhile."""
    turn = asyncio.get_running_loop().run_in_executor(_files, lambda: call(*args, **kwargs))
    try:
        return await asyncio.shield(turn)
    except asyncio.CancelledError:
        await asyncio.wait([turn])
        raise


def _with_connection(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    # The thread keeps its connection; one that the database closed is replaced after the call that found it out.
    try:
        return call(*args, **kwargs)
    except Exception:
        if connection.connection is not None and connection.errors_occurred:
            close_old_connections()
        raise
