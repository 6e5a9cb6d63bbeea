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
GATHER = 0.002  # seconds that a turn waits for those who took part in the one before

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
        self._crowd = 1  # how many took part of late: they come again at about the same time
        self._gathered: asyncio.Event | None = None

    async def do(self, item: ItemT) -> ResultT:
        """The item's result. Raises its refusal, what failed, or Throttled when too many wait already.

        A caller that is cancelled does not take its item back.
        """
        if len(self._waiting) > BACKLOG:
            raise Throttled("the registry is busy; try again in a moment", retry_after=2)
        promise: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, promise))
        if self._gathered is not None and len(self._waiting) >= self._crowd:
            self._gathered.set()
        if self._turn is None or self._turn.done():
            self._turn = asyncio.ensure_future(self._turns())
        return await promise

    async def _turns(self) -> None:
        while self._waiting:
            await self._gather()
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not await self._one(batch, alone=len(batch) == 1):
                for entry in batch:
                    await self._one([entry], alone=True)
            self._crowd = min(MOST, len(batch) + len(self._waiting))

    async def _gather(self) -> None:
        """Wait a moment for the others. A client that is alone waits once, after it was not alone."""
        if len(self._waiting) >= self._crowd:
            return
        self._gathered = asyncio.Event()
        try:
            async with asyncio.timeout(GATHER):
                await self._gathered.wait()
        except TimeoutError:
            pass  # fewer come than came
        finally:
            self._gathered = None

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
