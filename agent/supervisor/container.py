"""One container. All its state transitions live in this file.

    created ──start──► running ◄──pause/resume──► paused
                          │
                 exit     ├──► restarting ──back-off──► running      (policy says so and nobody asked for the end)
                          └──► exited ──start──► running

Creation and start take time, and nobody waits with them: each is a transition (see there), one at a time, and what is asked of
the container meanwhile stands in `line` until it is over; only a delete by force, a KILL, and a stop whose grace is over
interrupt it. Whoever waits for it is refused then; of a creation nothing is left, and a start has failed. So it goes also with
what takes longer than transition.DRAIN when the supervisor is replaced or told to end. When it is killed, the next one removes
what was being created, and a start has not taken place.

A `created` container has a process that waits just before exec. It is lost when the supervisor is replaced or killed, which
nobody notices but by its pid: `start` makes another. An exit is handled in this order: read the output to its end, draw the
consequences, put both on record (durably, together with all others that ended in the same round of the loop), tell, reap. kill -9
between any two of them leaves a record from which the rest follows.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import WharfError
from agent.supervisor import durable, remains, restart
from agent.supervisor.context import Context
from agent.supervisor.ending import Ending
from agent.supervisor.execs import Execs
from agent.supervisor.loop import Timer, report
from agent.supervisor.processes import UNKNOWN, Exit, Process
from agent.supervisor.record import CREATED, EXITED, PAUSED, RESTARTING, RUNNING, Record
from agent.supervisor.refusals import AlreadyRunning, ContainerActive, ContainerPaused, Interrupted, NotPaused, NotRunning
from agent.supervisor.remains import Remains
from agent.supervisor.run import Run
from agent.supervisor.specification import Specification
from agent.supervisor.streams import Streams
from agent.supervisor.transition import Transition
from agent.supervisor.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.launch import Cgroup
    from agent.supervisor.transition import Body

    Done = Callable[[Exception | None], None]

SIGKILL = 9
_LATER = 0.5  # s


class Container:
    """See the module. Parts of a container reach each other through it."""

    def __init__(self, context: Context, spec: Specification, record: Record) -> None:
        self.context = context
        self.spec = spec
        self.record = record
        self.id = record.id
        self.directory = os.path.join(context.statedir, record.id)
        self.run = Run(self)
        self.execs = Execs(self)
        self.waiters: list[Callable[[], None]] = []  # called when the container has come to rest
        self.gone: list[Callable[[], None]] = []  # called when a delete under way is done
        self.deleting = False
        self._streams: Streams | None = None
        self._timer: Timer | None = None  # a restart's back-off, or the wait for a store
        self._ending = Ending(self)
        self._watches = Watches(self, self._ending.lease_over)
        self.is_lost = False  # its process was gone when we came
        self._remains = Remains(self, self.remove)
        self.line: list[Callable[[WharfError | None], None]] = []  # called after the transition; with an error: to be refused
        self.made = True  # False while it is being created: nobody was told of it
        self._transition: Transition | None = None
        self._postponed: Exit | None = None  # it ended while its poststart hooks ran

    # ---- what clients ask for

    def create(self, record: Callable[[], None], done: Done) -> None:
        """Make the process that waits to be started; `record` is called meanwhile. After an error only the directory is left.

        Raises Interrupted when the supervisor is about to leave.
        """
        self.made = False
        self._transit(self._create(record), done)

    def start(self, done: Done) -> None:
        """By hand: counters begin anew. `done` has the runtime's refusal (`exec_failed`…), if there is one.

        Raises AlreadyRunning, ContainerActive, Interrupted.
        """
        if self.deleting:
            raise ContainerActive(f"container {self.id} is being deleted")
        if self.record.state in (RUNNING, PAUSED):
            raise AlreadyRunning(f"container {self.id} is {self.record.state}")
        self._transit(self._start(), done)

    def stop(self, signal: int, grace: float | None) -> None:
        """Ask it to end, and make it after `grace` seconds (None: never). Nothing when it has no process. See `waiters`."""
        self.record.stopped = True
        if self.record.state == RESTARTING:
            self._rest()
        elif self.record.active:
            self._ending.stop(signal, grace)

    def kill(self, signal: int, everything: bool) -> None:
        """Send a signal to the first process, or to all. KILL and TERM mean the end: no restart. Raises NotRunning."""
        if signal == SIGKILL and self._transition is not None:
            self.interrupt("killed")
            return
        self._need_process()
        self._ending.kill(signal, everything)

    def pause(self) -> None:
        """Freeze. Raises NotRunning, ContainerPaused."""
        self.need_running()
        self.cgroup.freeze()
        self._enter(PAUSED)
        self.publish("pause")

    def resume(self) -> None:
        """Thaw. Raises NotPaused."""
        if self.record.state != PAUSED:
            raise NotPaused(f"container {self.id} is {self.record.state}: only a paused one can be resumed")
        self._thaw()

    def update(self, resources: dict[str, Any] | None, policy: dict[str, Any] | None) -> None:
        """Change limits now and for later runs; change the restart policy. Raises the runtime's refusal."""
        if policy is not None:
            restart.validate(policy)
        if resources is not None:
            self.context.runtime.check_resources(resources)
            if self.process is not None:
                self.cgroup.update(resources)
        self.spec.update(resources, policy)

    def delete(self, force: bool) -> None:
        """Begin to remove it; see `gone`. Raises ContainerActive without force."""
        if self.record.active and not force:
            raise ContainerActive(f"container {self.id} is {self.record.state}: stop it first, or delete with force")
        if self.deleting:
            return
        self.deleting = True
        self.record.stopped = True
        self._set_timer(None)
        self.interrupt("deleted")
        if not self.made:
            return  # the end of its creation is the end of it
        if self.process is None:
            self._remains.sweep()
        else:
            self._ending.remember()
            self._ending.end_all()

    def interrupt(self, what: str) -> None:
        """End the creation or start that is under way; nothing without one. The error says `what` was done to the container."""
        if self._transition is not None:
            self.record.stopped = True
            doing = "started" if self.made else "created"
            self._transition.interrupt(Interrupted(f"container {self.id} was {what} while it was being {doing}"))

    # ---- what others of this room ask

    @property
    def transition(self) -> Transition | None:
        """What is under way."""
        return self._transition

    @property
    def process(self) -> Process | None:
        """The container's first; None when there is none (any more)."""
        return self.run.process

    @property
    def cgroup(self) -> Cgroup:
        return self.context.runtime.cgroup(self.id, self.spec.cgroups_path)

    @property
    def streams(self) -> Streams:
        """Also before a launch: a client may attach first."""
        if self._streams is None:
            spec = self.spec
            self._streams = Streams(self.context.logs, self.directory, spec.log, spec.open_stdin, spec.stdin_once)
        return self._streams

    def need_running(self) -> None:
        """Raises NotRunning, ContainerPaused."""
        self._need_process()
        if self.record.state == PAUSED:
            raise ContainerPaused(f"container {self.id} is paused: resume it first")

    def public(self) -> dict[str, Any]:
        """What clients see of it now."""
        seen = self.record.public()
        if not self.made:
            seen["state"] = "creating"
        seen["isolation"], seen["shim"] = self.spec.isolation, self.run.shim_pid
        if self._streams is not None and self._streams.log.dropped:
            seen["log_dropped"] += self._streams.log.dropped
            seen["log_fault"] = self._streams.log.fault
        return seen

    def publish(self, kind: str, **more: Any) -> None:
        if self.made:
            self.context.publish({"kind": kind, "id": self.id, "at": time.time_ns(), **more, "container": self.public()})

    def adopt(self, process: Process | None) -> None:
        """Go on with what another supervisor began. `process` None: there is none any more."""
        self.run.process = process
        if process is not None and self.record.active:
            self._ending.arm()
            self._watches.begin()
        elif self.record.state == RESTARTING:
            self._arm_restart()
        elif self.record.undecided:
            self.record.undecided = False
            self._decide()
            self.record.save()
            self._tell()

    def lost(self, grace: float) -> None:
        """The process was gone when a new supervisor looked for it: somebody may still give back a pidfd that knows its end."""
        if not self.spec.terminal and not self.streams.sources:
            self.streams.open_fifos()  # a store that holds the other ends may have kept the last output
        self._set_timer(self.context.loop.later(grace, lambda: self.found(UNKNOWN)))
        self.is_lost = True

    def discard_waiting(self, pidfd: int) -> None:
        """The process that waited for `start` cannot be used by another supervisor: `start` makes a new one."""
        if pidfd >= 0:
            Process(self.record.pid, pidfd, self.record.start_time, self.ended).send(SIGKILL)  # reaped as a stray
            os.close(pidfd)
        self.record.pid = 0
        self.record.save()
        if self._streams is not None:
            self._streams.unlaunch()

    @property
    def open_streams(self) -> Streams | None:
        """Those there are now; None when nobody launched or attached."""
        return self._streams

    def found(self, exit_: Exit) -> None:
        """How a lost process ended."""
        self._set_timer(None)
        self.is_lost = False
        self.context.processes.conclude(lambda: None if self.deleting else self.ended(exit_, watched=False))

    def resize(self, rows: int, columns: int) -> None:
        """Of the container's own terminal. Raises NotRunning when it has none."""
        if not self.streams.resize(rows, columns):
            raise NotRunning(f"container {self.id} has no terminal to resize")

    def release(self) -> None:
        """Let go of timers, watches and descriptors: this object is not used again."""
        self._set_timer(None)
        self._watches.end()
        self._drop_streams()
        self.run.release()

    # ---- transitions

    def _transit(self, body: Body, done: Done) -> None:
        if self.context.transitions.closing:
            raise Interrupted("the supervisor is about to end, or to be replaced: ask again")
        self._transition = Transition(self.context.transitions, self.directory, body, lambda error: self._arrived(error, done))
        self._transition.begin()

    def _arrived(self, error: Exception | None, done: Done) -> None:
        self._transition = None
        postponed, self._postponed = self._postponed, None
        done(error)
        if postponed is not None and self.process is not None:
            self.context.processes.conclude(lambda: self.ended(postponed))
        closing = self.context.transitions.closing
        while self.line and self._transition is None:
            self.line.pop(0)(Interrupted("the supervisor is about to end, or to be replaced: ask again") if closing else None)

    def _create(self, record: Callable[[], None]) -> Body:
        """nothing → created."""
        try:
            yield from self._launch(record)
        except Exception:
            yield from self._remains.clear(undo=True)
            raise
        self.made = True
        self.publish("create")

    def _start(self) -> Body:
        """created or exited → running, by hand."""
        self._set_timer(None)
        self.record.stopped = False
        self.record.restart_count, self.record.backoff, self.record.restart_at = 0, 0.0, 0.0
        try:
            yield from self._run()
        except (WharfError, OSError):
            self._rest()
            raise

    def _launch(self, meanwhile: Callable[[], None] | None = None) -> Body:
        """Make the process that waits to be started. `meanwhile`: see Run.make. Raises WharfError, OSError."""
        try:
            yield from self.run.make(meanwhile)
        except BaseException:
            self._drop_streams()
            raise

    def _run(self) -> Body:
        """created, exited or restarting → running. Raises WharfError; the record then says exited, and why."""
        record, lease = self.record, self.spec.lease
        try:
            self.context.leases.need(lease)
            self.context.leases.watch(self.id, lease, lambda: self.context.loop.soon(self._lease_over))
            if not self.run.waits:
                self.run.discard()
                yield from self._remains.clear()
                yield from self._launch()
                self.context.leases.need(lease)
            record.oom_seen = self.cgroup.oom_count()
            yield from self.run.begin()
        except (WharfError, OSError) as error:
            self._failed(error)
            raise
        record.started_at, record.finished_at = time.time_ns(), 0
        record.exit_code, record.signal, record.exit_known, record.oom_killed, record.error = None, None, False, False, ""
        record.kill_at = 0.0
        self._watches.reset()
        self._enter(RUNNING)
        self._watches.begin()
        self.publish("start")

    def _lease_over(self) -> None:
        """Before it runs. A run that has begun is watched anew."""
        self.interrupt("forbidden to run, because the node's lease ran out,")

    def _failed(self, error: WharfError | OSError) -> None:
        """A start that did not come to a running program: exit code 126 or 127 as a shell's, else 128."""
        self.context.leases.forget(self.id)
        self.run.discard()
        self._drop_streams(finish=True)
        record = self.record
        record.error = error.detail if isinstance(error, WharfError) else str(error)
        record.started_at = time.time_ns()
        record.write_exit(remains.exit_code_of(error), None, True)
        record.state = EXITED
        self._remains.sweep_later()

    def ended(self, exit_: Exit, watched: bool = True) -> Callable[[], None] | None:
        """The process ended and is not yet reaped. What is returned tells of it, once it is durably on record."""
        if self._transition is not None and not self._transition.poke():  # all that it said of its start is in the channel by now
            self._postponed = exit_
            return None
        if watched and self.process is None:
            return None  # it failed to start, which is on record
        record = self.record
        was = record.state
        kills = self._watches.oom_kills(not watched)
        self._watches.end()
        self._drop_streams(finish=True)
        self._set_timer(None)
        record.oom_killed = exit_.signal == SIGKILL and kills > record.oom_seen
        record.ended(exit_.code, exit_.signal, exit_.known)
        if was != CREATED:
            self._decide()
        if not self.deleting:
            record.enlist()
        return lambda: self._over(was)

    def _over(self, was: str) -> None:
        process = self.run.process if self.run.shim is not None else None
        self.run.over()
        if process is None:
            self._remains.sweep_later()  # the caller has reaped it then
        else:
            self._remains.sweep_after(process.pid)
        if was == CREATED:
            self._settle()
        else:
            self._tell()

    def _decide(self) -> None:
        """exited → restarting, or rest."""
        record = self.record
        record.state, record.restart_at = EXITED, 0.0
        again = restart.wanted(
            self.spec.restart,
            exit_code=record.exit_code if record.exit_known else None,
            stopped=record.stopped,
            count=record.restart_count,
        )
        if again:
            ran = max(0, record.finished_at - record.started_at) / 1e9
            record.backoff = restart.backoff(record.backoff, ran)
            record.restart_at = time.monotonic() + record.backoff
            record.state = RESTARTING

    def _tell(self) -> None:
        """What was decided is on record."""
        self.publish("exit")
        if self.record.state == RESTARTING:
            self._arm_restart()
        else:
            self._settle()

    def _restart(self) -> None:
        if self.context.transitions.draining:
            self._set_timer(self.context.loop.later(_LATER, self._restart))  # the next supervisor's, or ours if we stay
        else:
            self._transit(self._again(), _said)

    def _again(self) -> Body:
        """restarting → running, or what the policy says."""
        self.record.restart_count += 1
        self.record.restart_at = 0.0
        try:
            yield from self._run()
        except (WharfError, OSError) as error:
            report(error)
            self._decide()
            self.record.save()
            self._tell()
            return
        self.publish("restart")

    def _rest(self) -> None:
        self._set_timer(None)
        self.record.restart_at = 0.0
        self.record.state = EXITED
        if not self.deleting:
            self.record.save()
        self.publish("exit")
        self._settle()

    def _enter(self, state: str) -> None:
        self.record.state = state
        self.record.save()

    def _settle(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()

    # ---- parts

    def _need_process(self) -> None:
        if self.process is None or self.record.state not in (RUNNING, PAUSED):
            raise NotRunning(f"container {self.id} is {self.record.state}: start it first")

    def _thaw(self) -> None:
        self.cgroup.thaw()
        self._enter(RUNNING)
        self.publish("resume")

    def _arm_restart(self) -> None:
        # restart_at of another boot may lie far ahead of this boot's clock
        due = min(self.record.restart_at, time.monotonic() + self.record.backoff)
        self._set_timer(self.context.loop.at(due, self._restart))

    def _set_timer(self, timer: Timer | None) -> None:
        self._ending.calm()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _drop_streams(self, finish: bool = False) -> None:
        if self._streams is not None:
            streams, self._streams = self._streams, None
            streams.finish() if finish else streams.close()
            self.record.note_drops(streams.log.dropped, streams.log.fault)

    def remove(self) -> None:
        """Forget it, and all that is on disk of it. It has no process and no cgroup."""
        self.release()
        self.execs.release()
        durable.remove_tree(self.directory)
        self.publish("delete")
        self._settle()
        gone, self.gone = self.gone, []
        for call in gone:
            call()


def _said(_error: Exception | None) -> None:
    """Nobody waits for a restart: what became of it was published."""
