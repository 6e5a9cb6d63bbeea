"""The links that this web process holds: who is here, whom to wake, whose lease to renew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError

from agent.protocol.errors import Throttled, WharfError
from controlplane.api.threads import Rows
from controlplane.events import hints
from nodes import queries, topics
from nodes.actions import web
from nodes.actions.session import touch_leases
from nodes.link.credentials import Credentials, issue
from nodes.orchestrator.liveness import GRACE, PERIOD

if TYPE_CHECKING:
    from agent.protocol.wire import Wire
    from nodes.link.session import LinkSession

log = logging.getLogger(__name__)

PARKED = 60.0  # seconds that the wire of a lost link waits to be resumed
ADMISSIONS, ADMISSION_WINDOW = 3, 8.0  # greetings of one node that are answered, and in how many seconds
ANNOUNCE_EVERY = web.LEASE / 3
RENEW_EVERY = 12 * 3600.0  # seconds a process uses one certificate of its own


def pace(links: int) -> tuple[float, float]:
    """(heartbeat, grace) in seconds for so many links: at most 500 beats a second a process, down after three missed."""
    heartbeat = max(PERIOD, links / 500)
    return heartbeat, max(GRACE, heartbeat * 3)


@dataclass(frozen=True, slots=True)
class Parked:
    """The wire of a link that ended, of one node's session. `lost` is set when the loss is recorded, or cannot be."""

    node_id: str
    wire: Wire
    until: float = field(default_factory=lambda: time.monotonic() + PARKED)
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """One per web process. Only its event loop touches it."""

    def __init__(self) -> None:
        self.web_id = secrets.token_hex(8)
        self.rows = Rows("link-rows", threads=6, backlog=5000)
        self.revs: dict[str, int] = {}
        self.credentials: Credentials | None = None  # for tunnels to other web processes; made at the first announcement
        self._sessions: dict[str, LinkSession] = {}
        self._parked: dict[str, Parked] = {}
        self._heard: dict[str, str] = {}
        self._admitted: dict[str, deque[float]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The flusher, the hint reader and the announcer run inside."""
        loops = [
            asyncio.create_task(_for_ever(self._keep_looking), name="hub-leases"),
            asyncio.create_task(_for_ever(self._follow_hints), name="hub-hints"),
            asyncio.create_task(_for_ever(self._keep_announcing), name="hub-announcer"),
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            with contextlib.suppress(DatabaseError, WharfError):  # the row's lease runs out by itself
                await self.rows(web.leave, self.web_id)

    @property
    def pace(self) -> tuple[float, float]:
        """(heartbeat, grace) in seconds, now."""
        return pace(len(self._sessions))

    def session(self, node_id: str) -> LinkSession | None:
        return self._sessions.get(node_id)

    def __len__(self) -> int:
        return len(self._sessions)

    def admit(self, node_id: str) -> None:
        """Count a greeting. Raises `Throttled` at the fourth within 8 s: each costs transactions and an audit event."""
        now = time.monotonic()
        times = self._admitted.setdefault(node_id, deque(maxlen=ADMISSIONS))
        if len(times) == ADMISSIONS and now - times[0] < ADMISSION_WINDOW:
            wait = ADMISSION_WINDOW - (now - times[0])
            raise Throttled(f"this node opened {ADMISSIONS} links within {ADMISSION_WINDOW:.0f} s", retry_after=round(wait, 2))
        times.append(now)

    def enter(self, session: LinkSession) -> None:
        """A new session; an older one of the same node is ended: the newest wins, its epoch is higher."""
        older = self._sessions.get(session.node_id)
        self._sessions[session.node_id] = session
        if older is not None:
            older.end()

    def leave(self, session: LinkSession) -> bool:
        """False when a newer session has taken its place."""
        if self._sessions.get(session.node_id) is not session:
            return False
        del self._sessions[session.node_id]
        self._heard.pop(session.node_id, None)
        self.revs.pop(session.node_id, None)
        return True

    def park(self, parked: Parked) -> None:
        """Keep the wire of a lost link for a while: the agent may resume its session."""
        now = time.monotonic()
        self._parked = {session: entry for session, entry in self._parked.items() if entry.until > now}
        if parked.wire.session:
            self._parked[parked.wire.session] = parked

    def unpark(self, node_id: str, session: str) -> Parked | None:
        """The parked wire of that very session of that very node, once."""
        parked = self._parked.get(session)
        if parked is None or parked.node_id != node_id or parked.until < time.monotonic():
            return None
        return self._parked.pop(session)

    def heard(self, node_id: str, session: str) -> None:
        """A heartbeat came over `session`: its lease goes with the next flush."""
        self._heard[node_id] = session

    # -- once a second ---------------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._forget_admissions()
            heard, self._heard = self._heard, {}
            try:
                await self._look(heard)
            except (DatabaseError, Throttled) as error:
                log.warning("leases not renewed: %s", error)
                self._heard = {**heard, **self._heard}  # what was heard is still true

    async def _look(self, heard: dict[str, str]) -> None:
        """One UPDATE for every node that was heard; then what the rows say, so that a lost hint costs a second and no more."""
        await self.rows(touch_leases, heard, web_id=self.web_id, grace=self.pace[1])
        before = dict(self._sessions)
        rows = await self.rows(queries.link_rows, self.web_id)
        for node_id, session in before.items():
            if self._sessions.get(node_id) is not session:
                continue
            row = rows.get(node_id)
            if row is None or row.epoch != session.epoch or not session.knows(row.actions):
                session.wake()
            if row is not None:
                self.revs[node_id] = row.assign_rev
            if row is not None and row.given_up and node_id in heard:
                # A silence that ended before TCP gave up: the tasks were replaced meanwhile.
                session.end()

    def _forget_admissions(self) -> None:
        before = time.monotonic() - ADMISSION_WINDOW
        self._admitted = {node_id: times for node_id, times in self._admitted.items() if times[-1] > before}

    # -- hints -----------------------------------------------------------------------------------------------------------

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

    # -- other web processes ---------------------------------------------------------------------------------------------

    async def _keep_announcing(self) -> None:
        """Tell the others where this process is, and by which certificate they know it."""
        made = 0.0
        while True:
            try:
                if self.credentials is None or time.monotonic() - made > RENEW_EVERY:
                    self.credentials = await self.rows(issue, self.web_id)
                    made = time.monotonic()
                await self.rows(
                    web.announce, self.web_id, web.own_host(), settings.NODE_PORT, fingerprint=self.credentials.fingerprint
                )
            except (DatabaseError, WharfError, OSError) as error:
                log.warning("other web processes cannot reach this one yet: %s", error)
            await asyncio.sleep(ANNOUNCE_EVERY if self.credentials else 1.0)


async def _for_ever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop of the hub again when it fails: leases and wake-ups must not end silently with one bug."""
    while True:
        try:
            await loop()
        except Exception:  # the loop's top
            log.exception("%s failed and begins again", getattr(loop, "__name__", "a loop of the hub"))
            await asyncio.sleep(1.0)


HUB = Hub()
