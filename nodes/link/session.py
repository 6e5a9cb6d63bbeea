"""One live link: what the node says becomes rows, what the rows say is sent to the node.

The socket's reader never waits for the database: heartbeats and streams are answered at once, everything else goes through one
ordered inbox. When the inbox is full the reader stops reading, and TCP tells the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError

from agent.protocol import messages as m
from agent.protocol.errors import Denied, InvalidInput, Throttled, WharfError
from agent.protocol.wire import Acknowledged, Data, Event, ProtocolViolation, Received, Wire, Writable
from nodes import queries
from nodes.actions.joining import sign_renewal
from nodes.actions.one_shot import complete_action
from nodes.actions.report import record_contents, record_inventory, record_samples, report
from nodes.actions.session import Registration, check_session
from nodes.errors import StaleSession
from nodes.link.hub import Hub
from nodes.link.inbox import Inbox
from nodes.link.streams import NodeStream
from registry import token

log = logging.getLogger(__name__)

MAX_QUEUED = 5000  # frames for a node that does not read them
_AWAY = (OperationalError, InterfaceError, Throttled)  # wait for it
# What a database refuses for ever: a value of the node's that does not fit it.
_POISON = (DatabaseError, InvalidInput, ValueError, OverflowError, RecursionError)
_STREAM = (m.StreamOpened, m.StreamRefused, m.StreamExit, m.StreamReset, m.StreamEof)


def reconnect_window(links: int) -> float:
    """Seconds over which that many nodes should spread their return: 125 full handshakes a second, 2 to 60 s."""
    return min(max(links / 125, 2.0), 60.0)


class LinkSession:
    """`send` puts one frame on the websocket; `close` ends it."""

    def __init__(
        self,
        hub: Hub,
        node_id: str,
        wire: Wire,
        *,
        send: Callable[[str | bytes], Awaitable[None]],
        close: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self.node_id = node_id
        self.wire = wire
        self.epoch = 0
        self._hub = hub
        self._send = send
        self._close = close
        self._inbox = Inbox()
        self._ended = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._look = asyncio.Event()
        self._sent: dict[str, m.TaskAssignment] | None = None
        self._sent_rev = 0
        self._sent_actions: frozenset[str] = frozenset()  # of those that wait, the ones this session has told the node
        self._actions = asyncio.Lock()
        self._streams: dict[int, NodeStream] = {}

    def begin(self, hello: m.Hello, registration: Registration, session: str, *, resumed: bool) -> None:
        """Answer the greeting; the link is live from here."""
        self.epoch = registration.epoch
        heartbeat, grace = self._hub.pace
        welcome = m.Welcome(
            version=m.VERSION,
            node_id=self.node_id,
            session=session,
            epoch=registration.epoch,
            resumed=resumed,
            received=self.wire.received,
            heartbeat=heartbeat,
            grace=grace,
            registry=settings.REGISTRY_ADDRESS or f":{settings.PORT}",
            adopt=registration.adopt,
            reconnect_window=reconnect_window(len(self._hub)),
        )
        self.wire.accept(hello, welcome)
        self._hub.revs[self.node_id] = registration.assign_rev
        self._hub.heard(self.node_id, session)
        self._outgoing.set()
        self._look.set()

    def wake(self) -> None:
        """Something about this node changed in the database: look."""
        self._look.set()

    def knows(self, actions: Iterable[str]) -> bool:
        """Whether all these acts were sent to the node."""
        return self._sent_actions.issuperset(actions)

    async def run(self, receive: Callable[[], Awaitable[str | bytes | None]]) -> None:
        """Until the socket ends, the peer breaks the protocol, or the session is superseded."""
        jobs = [
            asyncio.create_task(self._read(receive), name=f"link-read-{self.node_id}"),
            asyncio.create_task(self._write(), name=f"link-write-{self.node_id}"),
            asyncio.create_task(self._work(), name=f"link-work-{self.node_id}"),
            asyncio.create_task(self._watch(), name=f"link-watch-{self.node_id}"),
            asyncio.create_task(self._superseded(), name=f"link-end-{self.node_id}"),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        except ProtocolViolation as error:
            log.warning("node %s broke the protocol: %s", self.node_id, error.detail)
            await self._close(1002, error.detail[:100])
        except StaleSession as error:
            await self._close(4409, error.detail[:100])
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            for event in self.wire.disconnect():
                self._to_stream(event)

    def end(self) -> None:
        """A newer session of this node is here."""
        self._ended.set()

    async def _superseded(self) -> None:
        await self._ended.wait()
        raise StaleSession("another session of this node was opened")

    # -- streams ---------------------------------------------------------------------------------------------------------

    def open_stream(self, target: str, container: str, *, args: Mapping[str, Any], actor: str, operation: str) -> NodeStream:
        """Ask the node for a stream; `await stream.opened()` says whether it is there."""
        number = self.wire.open_stream(target, container, args=args, actor=actor, operation=operation)
        stream = NodeStream(self.wire, self._outgoing.set, number, self._forget_stream)
        self._streams[number] = stream
        self._outgoing.set()
        return stream

    def _forget_stream(self, number: int) -> None:
        self._streams.pop(number, None)

    def _to_stream(self, event: Event) -> bool:
        if isinstance(event, Data | Writable):
            stream = self._streams.get(event.stream)
            if stream and isinstance(event, Data):
                stream.deliver(event)
            elif stream:
                stream.writable()
            return True
        if isinstance(event, Received) and isinstance(event.message, _STREAM):
            message = event.message
            known = self._streams.get(message.stream)
            if known:
                known.deliver(message)
            if not self.wire.is_open(message.stream):
                self._streams.pop(message.stream, None)
            return True
        return False

    # -- the socket ------------------------------------------------------------------------------------------------------

    async def _read(self, receive: Callable[[], Awaitable[str | bytes | None]]) -> None:
        while (frame := await receive()) is not None:
            for event in self.wire.receive(frame):
                if self._to_stream(event) or isinstance(event, Acknowledged):
                    continue
                if isinstance(event, Received) and isinstance(event.message, m.Heartbeat):
                    self._beat(event.message)
                elif isinstance(event, Received):
                    await self._inbox.put(event, len(frame))
            if self.wire.queued > MAX_QUEUED:
                raise ProtocolViolation("asks and does not read the answers")
            self._outgoing.set()

    def _beat(self, beat: m.Heartbeat) -> None:
        if beat.epoch != self.epoch:
            raise ProtocolViolation(f"heartbeat of epoch {beat.epoch} in a session of epoch {self.epoch}")
        self._hub.heard(self.node_id, self.wire.session)
        heartbeat, grace = self._hub.pace
        rev = self._hub.revs.get(self.node_id, beat.assign_rev)
        self.wire.send(m.HeartbeatAck(beat.sent, rev, heartbeat, grace))

    async def _write(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for frame in self.wire.frames():
                await self._send(frame)

    # -- what the node says ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            received = await self._inbox.get()
            await self._persistently(received.message)
            if received.seq is not None:
                self.wire.done(received.seq)
                self._outgoing.set()

    async def _persistently(self, message: Any) -> None:
        """Handle one message; a database that is away for a moment is waited for, so that nothing acknowledged is lost.

        What the database refuses for ever is the node's violation: tried again it would hold up everything behind it.
        """
        delay = 0.2
        while True:
            try:
                await self._handle(message)
                return
            except _AWAY as error:
                log.warning("node %s: %s waits for the database: %s", self.node_id, message.TYPE, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            except _POISON as error:
                raise ProtocolViolation(f"{message.TYPE} cannot be stored: {str(error)[:200]}") from error

    async def _handle(self, message: Any) -> None:
        rows = self._hub.rows
        if isinstance(message, m.StatusReport):
            self._own_epoch(message.epoch)
            await rows(report, self.node_id, message.epoch, message.tasks)
        elif isinstance(message, m.Inventory):
            await rows(record_inventory, self.node_id, message)
        elif isinstance(message, m.Contents):
            await rows(record_contents, self.node_id, message)
        elif isinstance(message, m.Samples):
            await rows(record_samples, self.node_id, message)
        elif isinstance(message, m.ActionResult):
            # Never between the look at what waits and the sending of it: the node forgets an act when its result is
            # acknowledged, and would do it again.
            async with self._actions:
                await rows(complete_action, self.node_id, message)
        elif isinstance(message, m.AssignmentsRequest):
            self._sent = None
            self._look.set()
        elif isinstance(message, m.TokenRequest):
            self.wire.send(await self._pull_token(message))
        elif isinstance(message, m.CertificateRequest):
            self.wire.send(await self._certificate(message))
        self._outgoing.set()

    def _own_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise StaleSession(f"a report of epoch {epoch} in a session of epoch {self.epoch}")

    async def _pull_token(self, request: m.TokenRequest) -> m.TokenReply:
        try:
            if not await self._hub.rows(queries.may_pull, self.node_id, request.repository):
                raise Denied(f"no assignment of this node names {request.repository}")
            access = [{"type": "repository", "name": request.repository, "actions": ["pull"]}]
            text = await self._hub.rows(token.issue, f"node:{self.node_id}", access)
        except WharfError as error:
            return m.TokenReply(request.request_id, error=error.as_dict())
        return m.TokenReply(request.request_id, token=text)

    async def _certificate(self, request: m.CertificateRequest) -> m.CertificateReply:
        try:
            certificate, ca = await self._hub.rows(sign_renewal, self.node_id, self.epoch, request.csr)
        except WharfError as error:
            return m.CertificateReply(request.request_id, error=error.as_dict())
        return m.CertificateReply(request.request_id, certificate=certificate, ca=ca)

    # -- what the rows say -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self._hub.rows(check_session, self.node_id, self.epoch, self.wire.session)
                await self._push_assignments()
                await self._push_actions()
            except (DatabaseError, Throttled) as error:
                log.warning("node %s: looking again at the database: %s", self.node_id, error)
                await asyncio.sleep(1.0)
                self._look.set()

    async def _push_assignments(self) -> None:
        rev, tasks, networks = await self._hub.rows(queries.assignments, self.node_id)
        wanted = {task.task_id: task for task in tasks}
        self._hub.revs[self.node_id] = rev
        if self._sent is None:
            self.wire.send(m.AssignmentsFull(self.epoch, rev, tasks, networks))
        elif rev != self._sent_rev:
            put = tuple(task for task in tasks if self._sent.get(task.task_id) != task)
            drop = tuple(task_id for task_id in self._sent if task_id not in wanted)
            self.wire.send(m.AssignmentsDelta(self.epoch, self._sent_rev, rev, put, drop, networks))
        else:
            return  # nothing may count as sent: what was read can be newer than its revision, and goes with the next one
        self._sent, self._sent_rev = wanted, rev
        self._outgoing.set()

    async def _push_actions(self) -> None:
        async with self._actions:
            waiting = await self._hub.rows(queries.pending_actions, self.node_id, self.epoch)
            for action in waiting:
                if action.action_id not in self._sent_actions:
                    self.wire.send(action)
            self._sent_actions = frozenset(action.action_id for action in waiting)
        self._outgoing.set()
