"""The console's one multiplexed websocket a tab: it says which topics changed; the browser fetches the fragments again.

First frame from the browser: {"topics": ["service", "node.<id>", …]}. Topics are event targets with "/" as "."; a topic covers
what lies below it. Only events that the user may see are told, and the fragments ask for rights anyway.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.urls import path

from controlplane.api.actor import Actor, actor_of_user
from controlplane.api.threads import Rows
from controlplane.events import live

rows = Rows("console-live", threads=2, backlog=500)

MAX_TOPICS = 50
COALESCE = 0.25  # seconds: a burst of events makes one refresh


class LiveSocket(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    operation = "Authenticated"

    async def connect(self) -> None:
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(code=4401)
            return
        self.actor: Actor = actor_of_user(user)
        self.topics: frozenset[str] = frozenset()
        self.told: asyncio.Task[None] | None = None
        await self.accept()

    async def disconnect(self, code: int) -> None:
        task = getattr(self, "told", None)
        if task:
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            topics = json.loads(text_data or "")["topics"]
        except (ValueError, TypeError, KeyError):
            await self.close(code=4400)
            return
        self.topics = frozenset(str(topic)[:120] for topic in topics[:MAX_TOPICS])
        if self.told is None:
            self.told = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        number = await rows(live.head)
        async for batch in live.watch(self.actor, number):
            changed = self._wanted({topic_of(event.target) for event in batch})
            started = time.monotonic()
            for topic in changed:
                await self.send(text_data=json.dumps({"topic": topic}))
            if changed:
                await asyncio.sleep(max(0.0, COALESCE - (time.monotonic() - started)))

    def _wanted(self, topics: set[str]) -> list[str]:
        return sorted(
            topic for topic in topics if any(topic == wanted or topic.startswith(f"{wanted}.") for wanted in self.topics)
        )


def topic_of(target: str) -> str:
    """ "service/abc" -> "service.abc"."""
    return target.replace("/", ".")


websocket_urlpatterns: list[Any] = [path("ws/live", LiveSocket.as_asgi())]
