"""What a node said and the database has not taken yet, in order."""

from __future__ import annotations

import asyncio
from collections import deque

from agent.protocol.wire import Received

LENGTH = 200  # messages
SIZE = 8 << 20  # bytes of JSON; one message of the greatest size always fits an empty inbox


class Inbox:
    """One writer, one reader. Bounded by number and by size: `put` waits, the socket is not read, and TCP tells the node."""

    def __init__(self) -> None:
        self._items: deque[tuple[Received, int]] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, item: Received, size: int) -> None:
        while self._items and (len(self._items) >= LENGTH or self._size + size > SIZE):
            self._room.clear()
            await self._room.wait()
        self._items.append((item, size))
        self._size += size
        self._filled.set()

    async def get(self) -> Received:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item, size = self._items.popleft()
        self._size -= size
        self._room.set()
        return item
