"""The links that this web process holds: who is here, whom to wake, whose lease to renew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from django.db import DatabaseError

from controlplane.api.threads import Rows
from controlplane.events import hints
from nodes import queries, topics
from nodes.actions.session import touch_leases

if TYPE_CHECKING:
    from agent.protocol.wire import Wire
    from nodes.link.session import LinkSession

log = logging.getLogger(__name__)

PARKED = 60.0  # seconds that the wire of a lost link waits to be resumed


class Hub:
    """One per web process. Only its event loop touches it."""

    def __init__(self) -> None:
        self.web_id = secrets.token_hex(8)
        self.rows = Rows("link-rows", threads=6, backlog=5000)
        self.revs: dict[str, int] = {}
        self._sessions: dict[str, LinkSession] = {}
        self._parked: dict[str, tuple[float, str, Wire]] = {}
        self._heard: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The flusher and the hint reader run inside."""
        loops = [
            asyncio.create_task(self._flush_leases(), name="hub-leases"),
            asyncio.create_task(self._follow_hints(), name="hub-hints"),
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def session(self, node_id: str) -> LinkSession | None:
        return self._sessions.get(node_id)

    def __len__(self) -> int:
        return len(self._sessions)

    async def enter(self, session: LinkSession) -> None:
        """A new session; an older one of the same node is closed: the newest wins, its epoch is higher."""
        older = self._sessions.get(session.node_id)
        self._sessions[session.node_id] = session
        if older is not None:
            await older.end("another session of this node was opened")

    def leave(self, session: LinkSession) -> bool:
        """False when a newer session has taken its place."""
        if self._sessions.get(session.node_id) is not session:
            return False
        del self._sessions[session.node_id]
        self._heard.pop(session.node_id, None)
        return True

    def park(self, node_id: str, wire: Wire) -> None:
        """Keep the wire of a lost link for a while: the agent may resume its session."""
        now = time.monotonic()
        self._parked = {key: entry for key, entry in self._parked.items() if entry[0] > now}
        if wire.session:
            self._parked[wire.session] = (now + PARKED, node_id, wire)

    def unpark(self, node_id: str, session: str) -> Wire | None:
        """The parked wire of that very session of that very node, once."""
        deadline, owner, wire = self._parked.get(session, (0.0, "", None))
        if wire is None or owner != node_id or deadline < time.monotonic():
            return None
        del self._parked[session]
        return wire

    def heard(self, node_id: str, session: str) -> None:
        """A heartbeat came over `session`: its lease goes with the next flush."""
        self._heard[node_id] = session

    async def _flush_leases(self) -> None:
        """Once a second, one UPDATE for every node that was heard, and their revisions for the acknowledgements."""
        while True:
            await asyncio.sleep(1.0)
            heard, self._heard = self._heard, {}
            if not heard:
                continue
            try:
                await self.rows(touch_leases, heard, web_id=self.web_id)
                self.revs.update(await self.rows(queries.assign_revs, list(self._sessions)))
            except DatabaseError as error:
                log.warning("leases not renewed: %s", error)
                self._heard = {**heard, **self._heard}  # what was heard is still true

    async def _follow_hints(self) -> None:
        async for hint in hints.subscribe(topics.ASSIGNMENTS, topics.ACTIONS, topics.SESSIONS):
            if hint.topic == topics.ASSIGNMENTS:
                for node_id in hint.data.get("nodes", []):
                    self._wake(node_id)
            elif hint.topic in (topics.ACTIONS, topics.SESSIONS):
                self._wake(str(hint.data.get("node", "")))
            else:  # "resync": anything may have been missed
                for session in list(self._sessions.values()):
                    session.wake()

    def _wake(self, node_id: str) -> None:
        session = self._sessions.get(node_id)
        if session is not None:
            session.wake()


HUB = Hub()
