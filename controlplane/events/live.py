"""Events as they happen: hints say when to look, the table says what there is. A lost hint costs at most POLL seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from channels.db import database_sync_to_async

from agent.protocol.errors import InvalidInput
from controlplane.api import access
from controlplane.api.actor import Actor
from controlplane.api.errors import Gone
from controlplane.events import hints
from controlplane.events.chain import TOPIC
from controlplane.events.compact import compacted_through
from controlplane.events.models import ChainHead, Event

POLL = 15.0  # seconds without a hint after which the table is read anyway
BATCH = 500


def head() -> int:
    """The number of the newest event."""
    return ChainHead.objects.filter(pk=1).values_list("sequence", flat=True).first() or 0


def since(actor: Actor, number: int, limit: int = BATCH) -> list[Event]:
    """The first `limit` events after `number` that `actor` may see.

    Raises Gone (410) when some of what was asked for has been compacted, InvalidInput for a number that was never given out.
    """
    gone = compacted_through()
    if number < gone:
        raise Gone(f"Events up to {gone} have been compacted: list the resources, then watch from {head()}.", compacted=gone)
    if number > head():
        raise InvalidInput(f"There is no event {number} yet: the newest is {head()}.")
    return list(access.visible(actor, Event.objects.filter(id__gt=number)).order_by("id")[:limit])


async def subscribe(start: int | None = None) -> AsyncIterator[int]:
    """Numbers of events after `start` (default: from now on), each once, in order; rights are the reader's business."""
    last = start if start is not None else await database_sync_to_async(head)()
    async for _ in wakes():
        newest = await database_sync_to_async(head)()
        for number in range(last + 1, newest + 1):
            yield number
        last = max(last, newest)


async def watch(actor: Actor, number: int) -> AsyncIterator[list[Event]]:
    """Batches of visible events after `number`, for ever; an empty one shows life each POLL seconds. Raises like `since`."""
    read = database_sync_to_async(since)
    async for _ in wakes():
        newest = await database_sync_to_async(head)()
        while batch := await read(actor, number):
            yield batch
            number = batch[-1].id
        number = max(number, newest)  # invisible ones need not be read again
        yield []


async def wakes() -> AsyncIterator[None]:
    """One item at once, then one whenever there may be news."""
    queue: asyncio.Queue[None] = asyncio.Queue(1)

    async def listen() -> None:
        async for _ in hints.subscribe(TOPIC):
            if queue.empty():
                queue.put_nowait(None)

    task = asyncio.create_task(listen())
    try:
        yield None
        while True:
            try:
                await asyncio.wait_for(queue.get(), POLL)
            except TimeoutError:
                if task.done():
                    await task  # shows its error; it never ends by itself
            yield None
    finally:
        task.cancel()
