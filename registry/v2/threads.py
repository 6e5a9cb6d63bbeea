"""Bounded pools: one for rows, one for files, and on SQLite one thread for all writes.

Apart, so that a disk which is slow to sync never holds up a HEAD that needs only a row, and so that the number of database
connections of a web process is known. ORM calls and file calls are plain synchronous functions; nothing here holds a connection
while it waits for a client.

SQLite has one writer at a time and no queue: who finds it busy sleeps and tries again, longer each time. Our own queue is fair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import OperationalError, close_old_connections, connection

from agent.protocol.errors import Throttled

ROW_THREADS = 6
FILE_THREADS = 12
RETRIES = 2
DEADLOCKS = {"40P01", "40001"}  # deadlock_detected, serialization_failure
BACKLOG = 2000  # calls that may wait for a row thread before clients are told to come back

P = ParamSpec("P")
T = TypeVar("T")

_rows = ThreadPoolExecutor(ROW_THREADS, thread_name_prefix="registry-rows")
_writes = ThreadPoolExecutor(1, thread_name_prefix="registry-writes") if connection.vendor == "sqlite" else _rows
_files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="registry-files")


async def rows(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an ORM function that only reads. Raises Throttled when too many wait already."""
    return await _queued(_rows, lambda: _with_connection(call, *args, **kwargs))


async def writes(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an ORM function that writes. Raises Throttled when too many wait already."""
    return await _queued(_writes, lambda: _with_connection(call, *args, **kwargs))


async def _queued(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    if pool._work_queue.qsize() > BACKLOG:
        raise Throttled("the registry is busy; try again in a moment", retry_after=2)
    return await asyncio.get_running_loop().run_in_executor(pool, call)


async def files(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call of the blob store to its end, also when the request is cancelled: its descriptors are in use until then."""
    turn = asyncio.get_running_loop().run_in_executor(_files, lambda: call(*args, **kwargs))
    try:
        return await asyncio.shield(turn)
    except asyncio.CancelledError:
        await asyncio.wait([turn])
        raise


def _with_connection(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    # The thread keeps its connection; one that the database closed is replaced after the call that found it out.
    try:
        return _retrying(call, *args, **kwargs)
    except Exception:
        if connection.connection is not None and connection.errors_occurred:
            close_old_connections()
        raise


def _retrying(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run again what PostgreSQL rolled back to end a deadlock: our calls are whole transactions, so nothing of it is left."""
    for _ in range(RETRIES):
        try:
            return call(*args, **kwargs)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in DEADLOCKS:
                raise
    return call(*args, **kwargs)
