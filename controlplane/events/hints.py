"""Wake-ups between processes over Redis or Valkey pub/sub. A hint says "look": losing all of them is harmless.

With WHARF_REDIS_URL=memory:// (unit tests) hints stay in this process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
import structlog
from django.conf import settings

log = structlog.get_logger(__name__)

PREFIX = "wharf:hint:"
QUEUE = 1000  # hints a slow subscriber may lag behind; then the oldest are dropped, which is harmless
_PAUSE = 1.0  # seconds without an attempt after Redis was found away, so that a commit never waits on it twice


@dataclass(frozen=True, slots=True)
class Hint:
    topic: str
    data: dict[str, Any]


class _Publisher:
    def __init__(self) -> None:
        self._client: redis.Redis | None = None
        self._away_until = 0.0

    def publish(self, topic: str, text: str) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            if self._client is None:
                self._client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1.0, socket_connect_timeout=1.0)
            self._client.publish(PREFIX + topic, text)
        except (redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + _PAUSE
            log.warning("hint_lost", topic=topic, error=str(error))


_publisher = _Publisher()
_local: set[tuple[frozenset[str], asyncio.AbstractEventLoop, asyncio.Queue[Hint]]] = set()


def publish(topic: str, data: dict[str, Any] | None = None) -> None:
    """Wakes the subscribers of `topic` in all processes, after the commit. Never raises, never waits more than a second."""
    body = data or {}
    if settings.IN_MEMORY:
        for topics, loop, queue in list(_local):
            if topic in topics and not loop.is_closed():
                loop.call_soon_threadsafe(_offer, queue, Hint(topic, body))
        return
    _publisher.publish(topic, json.dumps(body, default=str))


def _offer(queue: asyncio.Queue[Hint], hint: Hint) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(hint)


async def subscribe(*topics: str) -> AsyncIterator[Hint]:
    """Hints of `topics` as they come. One with the topic "resync" comes at the start and after a reconnect: read the database."""
    if settings.IN_MEMORY:
        async for hint in _subscribe_local(topics):
            yield hint
        return
    delay = 0.2
    while True:
        try:
            async for hint in _subscribe_redis(topics):
                delay = 0.2
                yield hint
        except (redis.RedisError, OSError) as error:
            log.warning("hints_away", error=str(error), retry_in=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


async def _subscribe_local(topics: tuple[str, ...]) -> AsyncIterator[Hint]:
    entry = (frozenset(topics), asyncio.get_running_loop(), asyncio.Queue[Hint](QUEUE))
    _local.add(entry)
    try:
        yield Hint("resync", {})
        while True:
            yield await entry[2].get()
    finally:
        _local.discard(entry)


async def _subscribe_redis(topics: tuple[str, ...]) -> AsyncIterator[Hint]:
    # socket_timeout=None on purpose: redis-py 8 defaults to 5 s, which ends an idle subscription
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=None, socket_connect_timeout=5.0)
    try:
        async with client.pubsub() as channel:
            await channel.subscribe(*(PREFIX + topic for topic in topics))
            yield Hint("resync", {})
            async for message in channel.listen():
                if message["type"] == "message":
                    yield Hint(message["channel"].decode().removeprefix(PREFIX), json.loads(message["data"]))
    finally:
        await client.aclose()
