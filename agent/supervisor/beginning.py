"""How a container comes to be and to run: its creations and starts, one at a time, and what is asked of it meanwhile.

Each is a transition (see there). What has to wait for it stands in `line`; only a delete by force, a KILL, a stop whose grace is
over and the end of a lease interrupt it. What follows from a run, or from none, is the container's.
"""

from __future__ import annotations

import time

from agent.protocol.errors import WharfError
from agent.supervisor import remains
from agent.supervisor.loop import report
from agent.supervisor.record import EXITED, RUNNING
from agent.supervisor.refusals import Interrupted
from agent.supervisor.transition import Transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.container import Container
    from agent.supervisor.processes import Exit
    from agent.supervisor.transition import Body

    Done = Callable[[Exception | None], None]

_LATER = 0.5  # s
_LEAVING = "the supervisor is about to end, or to be replaced: ask again"


class Beginning:
    """Of one container."""

    __slots__ = ("_container", "_postponed", "line", "made", "transition")

    def __init__(self, container: Container) -> None:
        self._container = container
        self.line: list[Callable[[WharfError | None], None]] = []  # called after the transition; with an error: to be refused
        self.made = True  # False while it is being created: nobody was told of it
        self.transition: Transition | None = None  # what is under way
        self._postponed: Exit | None = None  # it ended while its poststart hooks ran

    def create(self, record: Callable[[], None], done: Done) -> None:
        """See Container.create."""
        self.made = False
        self._transit(self._create(record), done)

    def start(self, done: Done) -> None:
        """See Container.start."""
        self._transit(self._start(), done)

    def restart(self) -> None:
        """After a back-off. Nobody waits for it: what becomes of it is published."""
        container = self._container
        if container.context.transitions.draining:
            container.set_timer(container.context.loop.later(_LATER, self.restart))  # the next supervisor's, or ours if we stay
        else:
            self._transit(self._restart(), _said)

    def interrupt(self, what: str) -> None:
        """End what is under way; nothing without that. `what` was done to the container goes into the error."""
        if self.transition is not None:
            container = self._container
            container.record.stopped = True
            doing = "started" if self.made else "created"
            self.transition.interrupt(Interrupted(f"container {container.id} was {what} while it was being {doing}"))

    def postpones(self, exit_: Exit) -> bool:
        """Whether an end has to wait for the end of a start: all that the process said of that is in the channel by now."""
        if self.transition is None or self.transition.poke():
            return False
        self._postponed = exit_
        return True

    def _transit(self, body: Body, done: Done) -> None:
        container = self._container
        transitions = container.context.transitions
        if transitions.closing:
            raise Interrupted(_LEAVING)
        self.transition = Transition(transitions, container.directory, body, lambda error: self._arrived(error, done))
        self.transition.begin()

    def _arrived(self, error: Exception | None, done: Done) -> None:
        container = self._container
        self.transition = None
        postponed, self._postponed = self._postponed, None
        done(error)
        if postponed is not None and container.process is not None:
            container.context.processes.conclude(lambda: container.ended(postponed))
        closing = container.context.transitions.closing
        while self.line and self.transition is None:
            self.line.pop(0)(Interrupted(_LEAVING) if closing else None)

    def _create(self, record: Callable[[], None]) -> Body:
        """nothing → created."""
        container = self._container
        try:
            yield from self._launch(record)
        except Exception:
            yield from container.remains.clear(undo=True)
            raise
        self.made = True
        container.publish("create")

    def _start(self) -> Body:
        """created or exited → running, by hand."""
        container = self._container
        container.set_timer(None)
        container.record.stopped = False
        container.record.restart_count, container.record.backoff, container.record.restart_at = 0, 0.0, 0.0
        try:
            yield from self._run()
        except (WharfError, OSError):
            container.rest()
            raise

    def _restart(self) -> Body:
        """restarting → running, or what the policy says."""
        container = self._container
        container.record.restart_count += 1
        container.record.restart_at = 0.0
        try:
            yield from self._run()
        except (WharfError, OSError) as error:
            report(error)
            container.go_on()
            return
        container.publish("restart")

    def _launch(self, meanwhile: Callable[[], None] | None = None) -> Body:
        """Make the process that waits to be started. `meanwhile`: see Run.make. Raises WharfError, OSError."""
        try:
            yield from self._container.run.make(meanwhile)
        except BaseException:
            self._container.drop_streams()
            raise

    def _run(self) -> Body:
        """created, exited or restarting → running. Raises WharfError; the record then says exited, and why."""
        container = self._container
        context, lease = container.context, container.spec.lease
        try:
            context.leases.need(lease)
            context.leases.watch(container.id, lease, lambda: context.loop.soon(self._lease_over))
            if not container.run.waits:
                container.run.discard()
                yield from container.remains.clear()
                yield from self._launch()
                context.leases.need(lease)
            container.record.oom_seen = container.cgroup.oom_count()
            yield from container.run.begin()
        except (WharfError, OSError) as error:
            self._failed(error)
            raise
        record = container.record
        record.started_at, record.finished_at = time.time_ns(), 0
        record.exit_code, record.signal, record.exit_known, record.oom_killed, record.error = None, None, False, False, ""
        record.kill_at = 0.0
        container.watches.reset()
        container.enter(RUNNING)
        container.watches.begin()
        container.publish("start")

    def _failed(self, error: WharfError | OSError) -> None:
        """A start that did not come to a running program: exit code 126 or 127 as a shell's, else 128."""
        container = self._container
        container.context.leases.forget(container.id)
        container.run.discard()
        container.drop_streams(finish=True)
        record = container.record
        record.error = error.detail if isinstance(error, WharfError) else str(error)
        record.started_at = time.time_ns()
        record.write_exit(remains.exit_code_of(error), None, True)
        record.state = EXITED
        container.remains.sweep_later()

    def _lease_over(self) -> None:
        """Before it runs. A run that has begun is watched anew."""
        self.interrupt("forbidden to run, because the node's lease ran out,")


def _said(_error: Exception | None) -> None:
    """See Beginning.restart."""
