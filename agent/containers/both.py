"""Two steps at once, neither of which is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """What the two return. An error of either is raised when both have come to rest, so is a cancellation: a thread goes on
    when its waiter is cancelled, and whoever undoes a step must not overtake it."""
    one, other = asyncio.create_task(first), asyncio.create_task(second)
    try:
        await asyncio.wait((one, other))
    except asyncio.CancelledError:
        await asyncio.wait((one, other))
        raise
    for task in (one, other):
        if error := task.exception():
            raise error
    return one.result(), other.result()
