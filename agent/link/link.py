"""The node's side of a link session: what is said after a welcome, and what is done with each message.

Statuses, contents and samples are levels: they are sent when they change while a link is up, and whole after each welcome.
Nothing is queued for a link that is away, so the agent's memory does not grow with an outage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from agent import __version__
from agent.link.connection import Connection
from agent.link.host import boot_id, host_name
from agent.link.identity import Identity
from agent.link.journal import Journal
from agent.link.streams import Streams
from agent.link.tokens import Questions
from agent.protocol import messages as m
from agent.protocol.errors import Internal, Unavailable, WharfError
from agent.protocol.wire import Acknowledged, Event, Received, State, Wire
from agent.worker.worker import Worker

log = logging.getLogger(__name__)

UNACKNOWLEDGED = 500  # messages the control plane may owe an acknowledgement for; then statuses wait, newest only
BATCH = 0.05  # seconds that statuses are collected before they travel
STATUSES = 1000  # in one report
CONTENTS_BATCH = 1.0
SAMPLE_PERIOD = 10.0
LOOP_PAUSE = 1.0


class Node(Protocol):
    """What the link asks the node for, and what it may have done to it."""

    def inventory(self, epoch: int) -> m.Inventory: ...
    async def contents(self, epoch: int) -> m.Contents: ...
    async def samples(self, epoch: int) -> m.Samples: ...
    async def act(self, action: m.Action) -> dict[str, Any]: ...
    def granted(self, sent: float, length: float) -> None: ...


class Link:
    """One per agent. `run()` never returns while the node belongs to a cluster."""

    def __init__(self, identity: Identity, node: Node, journal: Journal, worker: Callable[[], Worker]) -> None:
        self.wire = Wire(m.AGENT)
        self.connection = Connection(identity, self.wire, hello=self._hello, handle=self._handle, beat=self._beat)
        self.questions = Questions(self.send)
        self.registry = ""  # host:port of the cluster's registry, known after the first welcome
        self.node_id = identity.cluster().node_id
        self._node = node
        self._journal = journal
        self._worker = worker
        self._streams: Streams | None = None
        self._epoch = 0
        self._owed = False  # assignments could not be written: they are asked for again with the next heartbeat
        self._fresh: dict[str, m.TaskStatus] = {}
        self._status_due = asyncio.Event()
        self._contents_due = asyncio.Event()
        self._acting: dict[str, asyncio.Task[None]] = {}

    def serve_streams(self, streams: Streams) -> None:
        self._streams = streams

    @property
    def live(self) -> bool:
        return self.wire.state is State.LIVE

    def send(self, message: Any) -> None:
        """Put a message on the link; dropped when there is none (levels are sent whole after the next welcome)."""
        if self.live:
            self.wire.send(message)
            self.connection.flush()

    def report(self, status: m.TaskStatus) -> None:
        """A task's status changed. Only the newest one of each task travels."""
        self._fresh[status.task_id] = status
        self._status_due.set()

    def contents_changed(self) -> None:
        self._contents_due.set()

    def inventory_changed(self) -> None:
        if self.live:
            self.send(self._node.inventory(self._epoch))

    async def run(self) -> None:
        loops = [
            asyncio.create_task(_for_ever(self._send_statuses), name="link-statuses"),
            asyncio.create_task(_for_ever(self._send_contents), name="link-contents"),
            asyncio.create_task(_for_ever(self._send_samples), name="link-samples"),
        ]
        connection = asyncio.create_task(self.connection.run(), name="link-connection")
        try:
            done, _ = await asyncio.wait({connection, *loops}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks = (connection, *loops, *self._acting.values(), *(self._streams.tasks() if self._streams else ()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _hello(self) -> m.Hello:
        assignments = self._worker().assignments
        return m.Hello(
            versions=(m.VERSION,),
            agent_version=__version__,
            boot_id=boot_id(),
            epoch=assignments.epoch,
            assign_rev=assignments.rev,
            session=self.wire.session,
            received=self.wire.received,
            hostname=host_name(),
        )

    def _beat(self) -> m.Heartbeat:
        return m.Heartbeat(self._epoch, self._worker().assignments.rev, time.clock_gettime(time.CLOCK_BOOTTIME))

    async def _handle(self, event: Event) -> None:
        if self._streams and self._streams.handle(event):
            return
        if isinstance(event, Acknowledged):
            if isinstance(event.message, m.ActionResult):
                self._journal.acknowledged(event.message.action_id)
            return
        if isinstance(event, Received):
            self._message(event.message)
            if event.seq is not None:
                self.wire.done(event.seq)

    def _message(self, message: Any) -> None:
        if isinstance(message, m.Welcome):
            self._welcomed(message)
        elif isinstance(message, m.AssignmentsFull | m.AssignmentsDelta):
            self._assigned(message)
        elif isinstance(message, m.HeartbeatAck):
            if message.lease > 0:
                self._node.granted(message.sent, message.lease)
            if self._owed or message.assign_rev != self._worker().assignments.rev:
                self._request_assignments()
        elif isinstance(message, m.Action):
            self._act(message)
        elif isinstance(message, m.TokenReply | m.CertificateReply):
            self.questions.answered(message)

    def _welcomed(self, welcome: m.Welcome) -> None:
        worker = self._worker()
        if not worker.assignments.observe_epoch(welcome.epoch):
            log.error(
                "welcome of epoch %d below %d already seen: a stale control-plane process",
                welcome.epoch,
                worker.assignments.epoch,
            )
            raise Internal("stale control-plane process")
        self._epoch = welcome.epoch
        here = welcome.registry.startswith(":")
        self.registry = f"{self.connection.host}{welcome.registry}" if here else welcome.registry
        worker.assignments.set_adopting(welcome.adopt)
        log.info("link up, epoch %d%s", welcome.epoch, ", resumed" if welcome.resumed else "")
        self.send(self._node.inventory(self._epoch))
        if not welcome.resumed:
            self._fresh.clear()
            self._report_all(worker.statuses())
        # In a resumed session too: what was finished while the link was away was not put on it. A repeat changes nothing.
        for result in self._journal.unacknowledged():
            self._send_result(result)
        self._contents_due.set()
        self._status_due.set()

    def _report_all(self, statuses: tuple[m.TaskStatus, ...]) -> None:
        for start in range(0, len(statuses), STATUSES):
            self.send(m.StatusReport(self._epoch, statuses[start : start + STATUSES]))

    def _assigned(self, message: m.AssignmentsFull | m.AssignmentsDelta) -> None:
        """Take them, on disk first. A disk that is full leaves the node with what it has, and the link up."""
        assignments = self._worker().assignments
        try:
            taken = assignments.replace(message) if isinstance(message, m.AssignmentsFull) else assignments.change(message)
        except OSError as error:
            log.log(logging.DEBUG if self._owed else logging.ERROR, "new assignments wait, they cannot be written: %s", error)
            self._owed = True
            return
        if taken:
            self._owed = False
            self._worker().reconcile()
        elif isinstance(message, m.AssignmentsDelta) and message.epoch >= self._epoch:
            self._request_assignments()

    def _request_assignments(self) -> None:
        self.send(m.AssignmentsRequest(self._worker().assignments.rev))

    def _act(self, action: m.Action) -> None:
        if action.epoch < self._epoch:
            log.warning("refused action %s of stale epoch %d", action.kind, action.epoch)
            return
        known = self._journal.find(action.action_id)
        if known is not None:
            self._send_result(known)
            return
        try:
            self._journal.begin(action)
        except OSError as error:
            # Without the note a repeat would act twice.
            log.error("action %s is refused: the state directory cannot be written: %s", action.kind, error)
            refusal = Unavailable(
                f"the node's state directory cannot be written ({error.strerror}): make room on it, then ask again"
            )
            self._send_result(m.ActionResult(self._epoch, action.action_id, ok=False, error=refusal.as_dict()))
            return
        self._acting[action.action_id] = asyncio.create_task(self._carry_out(action), name=f"action-{action.kind}")

    def _send_result(self, result: m.ActionResult) -> None:
        """Under today's epoch; not while the action is still being carried out."""
        if result.action_id not in self._acting:
            self.send(m.ActionResult(self._epoch, result.action_id, result.ok, result.result, result.error))

    async def _carry_out(self, action: m.Action) -> None:
        try:
            outcome = await self._node.act(action)
            result = m.ActionResult(self._epoch, action.action_id, ok=True, result=outcome)
        except WharfError as error:
            result = m.ActionResult(self._epoch, action.action_id, ok=False, error=error.as_dict())
        except Exception as error:  # the action's loop top: whatever went wrong, the asker gets an answer
            log.exception("action %s failed", action.kind)
            failure = Internal(f"the node failed to carry this out: {error}")
            result = m.ActionResult(self._epoch, action.action_id, ok=False, error=failure.as_dict())
        try:
            self._journal.finish(result)
        except OSError as error:
            log.error("the result of action %s is not on disk yet: %s", action.kind, error)
        del self._acting[action.action_id]
        self._send_result(result)

    async def _send_statuses(self) -> None:
        while True:
            await self._status_due.wait()
            await asyncio.sleep(BATCH)
            if self.wire.unacknowledged >= UNACKNOWLEDGED:
                continue  # still due
            self._status_due.clear()
            if self.live and self._fresh:
                batch, self._fresh = tuple(self._fresh.values()), {}
                self._report_all(batch)

    async def _send_contents(self) -> None:
        while True:
            await self._contents_due.wait()
            self._contents_due.clear()
            if self.live:
                self.send(await self._node.contents(self._epoch))
            await asyncio.sleep(CONTENTS_BATCH)

    async def _send_samples(self) -> None:
        while True:
            if self.live:
                self.send(await self._node.samples(self._epoch))
            await asyncio.sleep(SAMPLE_PERIOD)


async def _for_ever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop again when it fails: reports must not end silently with one bug, nor the agent with them."""
    while True:
        try:
            await loop()
        except Exception:  # the loop's top
            log.exception("%s failed and begins again", getattr(loop, "__name__", "a loop of the link"))
            await asyncio.sleep(LOOP_PAUSE)
