"""Who is told when a container changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any


class Changes:
    """`listeners` are called with the task's id, "" for a container of no task."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self._subscribers: set[asyncio.Queue[dict[str, Any]]] = set()

    def tell(self, kind: str, container_id: str, name: str, task_id: str) -> None:
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()  # a slow listener loses the oldest; events are hints, `live` is the truth
            queue.put_nowait({"kind": kind, "id": container_id, "name": name, "at": time.time()})
        for listener in self.listeners:
            listener(task_id)

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """What happens from now on, as plain dicts {kind, id, name, at}."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1000)
        self._subscribers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)
