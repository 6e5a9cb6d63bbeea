"""Group commit: what arrives while a turn is under way shares the next turn of a thread, and in it one transaction or one sync.

A lone request waits for nobody; under load the cost of a turn is divided among those that wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from agent.protocol.errors import Throttled, WharfError
from registry.v2.threads import BACKLOG

MOST = 64  # items of one turn: its transaction holds locks that others wait for

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Group(Generic[ItemT, ResultT]):
    """`run` takes items and returns for each its result or its refusal, in order; `thread` runs it in the right pool.

    It either does all of them or raises with nothing done: then they are run one by one, so that only the one at fault is told.
    """

    def __init__(
        self,
        run: Callable[[Sequence[ItemT]], Sequence[ResultT | WharfError]],
        thread: Callable[..., Awaitable[Sequence[ResultT | WharfError]]],
    ) -> None:
        self._run = run
        self._thread = thread
        self._waiting: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self._turn: asyncio.Task[None] | None = None

    async def do(self, item: ItemT) -> ResultT:
        """The item's result. Raises its refusal, what failed, or Throttled when too many wait already.

        A caller that is cancelled does not take its item back.
        """
        if len(self._waiting) > BACKLOG:
            raise Throttled("the registry is busy; try again in a moment", retry_after=2)
        promise: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, promise))
        if self._turn is None or self._turn.done():
            self._turn = asyncio.ensure_future(self._turns())
        return await promise

    async def _turns(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not await self._one(batch, alone=len(batch) == 1):
                for entry in batch:
                    await self._one([entry], alone=True)

    async def _one(self, batch: list[tuple[ItemT, asyncio.Future[ResultT]]], alone: bool) -> bool:
        """False when the turn failed and its items are to be tried alone."""
        try:
            results = await self._thread(self._run, [item for item, _ in batch])
        except BaseException as error:
            if isinstance(error, Exception) and not alone:
                return False
            for _, promise in batch:
                if not promise.done():
                    promise.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError("the server stops"))
            if not isinstance(error, Exception):
                raise
            return True
        for (_, promise), result in zip(batch, results, strict=True):
            if promise.done():  # its client went away
                continue
            if isinstance(result, WharfError):
                promise.set_exception(result)
            else:
                promise.set_result(result)
        return True
