"""Downloads that several pulls wait for: one a blob, three at once, cancelled when the last waiter goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agent.protocol.errors import WharfError

CONCURRENT: Final = 3
Progress = Callable[[dict[str, Any]], None]
Start = Callable[[Progress], Awaitable[None]]


class _Shared:
    __slots__ = ("last", "listeners", "task")

    def __init__(self) -> None:
        self.listeners: list[Progress] = []
        self.last: dict[str, Any] | None = None
        self.task: asyncio.Task[None] | None = None

    def report(self, event: dict[str, Any]) -> None:
        self.last = event
        for listener in list(self.listeners):
            listener(event)


class Transfers:
    """Used from one event loop."""

    def __init__(self, concurrent: int = CONCURRENT) -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._running: dict[str, _Shared] = {}

    async def fetch(self, key: str, start: Start, progress: Progress) -> None:
        """Wait for the transfer `key`, running `start` unless somebody already does.

        When somebody else's attempt fails (their credentials may be worse than ours) our own `start` is tried.
        """
        while (shared := self._running.get(key)) is not None:
            try:
                await self._wait(key, shared, progress)
            except asyncio.CancelledError:
                if _cancelled_ourselves():
                    raise
            except Exception:  # noqa: BLE001,S112  # it is reported to whoever started it; here it only means "not done"
                continue
            else:
                return
        shared = self._running[key] = _Shared()
        shared.task = asyncio.create_task(self._run(key, shared, start), name=f"transfer {key[:19]}")
        await self._wait(key, shared, progress)

    async def _run(self, key: str, shared: _Shared, start: Start) -> None:
        try:
            async with self._slots:
                await start(shared.report)
        finally:
            self._running.pop(key, None)

    @staticmethod
    async def _wait(key: str, shared: _Shared, progress: Progress) -> None:
        task = shared.task
        if task is None:
            raise RuntimeError(f"transfer {key} has no task")
        shared.listeners.append(progress)
        if shared.last is not None:
            progress(shared.last)
        try:
            await asyncio.shield(task)
        finally:
            shared.listeners.remove(progress)
            if not shared.listeners and not task.done():
                task.cancel()


def _cancelled_ourselves() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


class Together(asyncio.TaskGroup):
    """A TaskGroup that raises its first error itself: callers match on `WharfError`, not on groups."""

    async def __aexit__(self, *args: Any) -> None:
        try:
            await super().__aexit__(*args)
        except BaseExceptionGroup as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, WharfError)), flat[0])
