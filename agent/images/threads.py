"""Blocking work in a thread that is always waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, but a cancelled caller leaves only after the thread is done.

    Else the caller would close a file that the thread still writes, and the descriptor's number may be another file by then.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it as forgotten
        raise


@asynccontextmanager
async def entered(manager: AbstractContextManager[object]) -> AsyncIterator[None]:
    """A context manager whose entry and exit may wait for a lock: both happen in threads, not on the event loop."""
    await in_thread(manager.__enter__)
    try:
        yield
    finally:
        await in_thread(manager.__exit__, None, None, None)
