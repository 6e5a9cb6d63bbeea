"""One container: its states, and what follows from what. How it comes to run is `beginning`'s, how it is made to end `ending`'s.

    created ──start──► running ◄──pause/resume──► paused
                          │
                 exit     ├──► restarting ──back-off──► running      (policy says so and nobody asked for the end)
                          └──► exited ──start──► running

Creation and start take time, and nobody else waits with them (see beginning). Whoever waits for one that is interrupted is
refused; of a creation nothing is left, and a start has failed. So it goes also with what takes longer than transition.DRAIN
when the supervisor is replaced or told to end. When it is killed, the next one removes what was being created, and a start has
not taken place.

A `created` container has a process that waits just before exec. It is lost when the supervisor is replaced or killed, which
nobody notices but by its pid: `start` makes another. An exit is handled in this order: read the output to its end, draw the
consequences, put both on record (durably, together with all others that ended in the same round of the loop), tell, reap. kill -9
between any two of them leaves a record from which the rest follows.
"""

from __future__ import annotations

import os
import time

from agent.supervisor import durable, restart
from agent.supervisor.beginning import Beginning
from agent.supervisor.context import Context
from agent.supervisor.ending import Ending
from agent.supervisor.execs import Execs
from agent.supervisor.loop import Timer
from agent.supervisor.processes import UNKNOWN, Exit, Process
from agent.supervisor.record import CREATED, EXITED, PAUSED, RESTARTING, RUNNING, Record
from agent.supervisor.refusals import AlreadyRunning, ContainerActive, ContainerPaused, NotPaused, NotRunning
from agent.supervisor.remains import Remains
from agent.supervisor.run import Run
from agent.supervisor.specification import Specification
from agent.supervisor.streams import Streams
from agent.supervisor.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.beginning import Done
    from agent.supervisor.launch import Cgroup

SIGKILL = 9


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
        self.beginning = Beginning(self)
        self._ending = Ending(self)
        self.watches = Watches(self, self._ending.lease_over)
        self.is_lost = False  # its process was gone when we came
        self.remains = Remains(self, self.remove)

    # ---- what clients ask for

    def create(self, record: Callable[[], None], done: Done) -> None:
        """Make the process that waits to be started; `record` is called meanwhile. After an error only the directory is left.

        Raises Interrupted when the supervisor is about to leave.
        """
        self.beginning.create(record, done)

    def start(self, done: Done) -> None:
        """By hand: counters begin anew. `done` has the runtime's refusal (`exec_failed`…), if there is one.

        Raises AlreadyRunning, ContainerActive, Interrupted.
        """
        if self.deleting:
            raise ContainerActive(f"container {self.id} is being deleted")
        if self.record.state in (RUNNING, PAUSED):
            raise AlreadyRunning(f"container {self.id} is {self.record.state}")
        self.beginning.start(done)

    def stop(self, signal: int, grace: float | None) -> None:
        """Ask it to end, and make it after `grace` seconds (None: never). Nothing when it has no process. See `waiters`."""
        self.record.stopped = True
        if self.record.state == RESTARTING:
            self.rest()
        elif self.record.active:
            self._ending.stop(signal, grace)

    def kill(self, signal: int, everything: bool) -> None:
        """Send a signal to the first process, or to all. KILL and TERM mean the end: no restart. Raises NotRunning."""
        if signal == SIGKILL and self.beginning.transition is not None:
            self.beginning.interrupt("killed")
            return
        self._need_process()
        self._ending.kill(signal, everything)

    def pause(self) -> None:
        """Freeze. Raises NotRunning, ContainerPaused."""
        self.need_running()
        self.cgroup.freeze()
        self.enter(PAUSED)
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
        self.set_timer(None)
        self.beginning.interrupt("deleted")
        if not self.beginning.made:
            return  # the end of its creation is the end of it
        if self.process is None:
            self.remains.sweep()
        else:
            self._ending.remember()
            self._ending.end_all()

    # ---- what others of this room ask

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
        if not self.beginning.made:
            seen["state"] = "creating"
        seen["isolation"], seen["shim"] = self.spec.isolation, self.run.shim_pid
        if self._streams is not None and self._streams.log.dropped:
            seen["log_dropped"] += self._streams.log.dropped
            seen["log_fault"] = self._streams.log.fault
        return seen

    def publish(self, kind: str, **more: Any) -> None:
        if self.beginning.made:
            self.context.publish({"kind": kind, "id": self.id, "at": time.time_ns(), **more, "container": self.public()})

    def adopt(self, process: Process | None) -> None:
        """Go on with what another supervisor began. `process` None: there is none any more."""
        self.run.process = process
        if process is not None and self.record.active:
            self._ending.arm()
            self.watches.begin()
        elif self.record.state == RESTARTING:
            self._arm_restart()
        elif self.record.undecided:
            self.record.undecided = False
            self.go_on()

    def lost(self, grace: float) -> None:
        """The process was gone when a new supervisor looked for it: somebody may still give back a pidfd that knows its end."""
        if not self.spec.terminal and not self.streams.sources:
            self.streams.open_fifos()  # a store that holds the other ends may have kept the last output
        self.set_timer(self.context.loop.later(grace, lambda: self.found(UNKNOWN)))
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
        self.set_timer(None)
        self.is_lost = False
        self.context.processes.conclude(lambda: None if self.deleting else self.ended(exit_, watched=False))

    def resize(self, rows: int, columns: int) -> None:
        """Of the container's own terminal. Raises NotRunning when it has none."""
        if not self.streams.resize(rows, columns):
            raise NotRunning(f"container {self.id} has no terminal to resize")

    def release(self) -> None:
        """Let go of timers, watches and descriptors: this object is not used again."""
        self.set_timer(None)
        self.watches.end()
        self.drop_streams()
        self.run.release()

    # ---- transitions

    def ended(self, exit_: Exit, watched: bool = True) -> Callable[[], None] | None:
        """The process ended and is not yet reaped. What is returned tells of it, once it is durably on record."""
        if self.beginning.postpones(exit_):
            return None
        if watched and self.process is None:
            return None  # it failed to start, which is on record
        record = self.record
        was = record.state
        kills = self.watches.oom_kills(not watched)
        self.watches.end()
        self.drop_streams(finish=True)
        self.set_timer(None)
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
            self.remains.sweep_later()  # the caller has reaped it then
        else:
            self.remains.sweep_after(process.pid)
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

    def go_on(self) -> None:
        """exited → restarting, or rest; on record, and told."""
        self._decide()
        self.record.save()
        self._tell()

    def _tell(self) -> None:
        """What was decided is on record."""
        self.publish("exit")
        if self.record.state == RESTARTING:
            self._arm_restart()
        else:
            self._settle()

    def rest(self) -> None:
        """Nothing more comes of it by itself."""
        self.set_timer(None)
        self.record.restart_at = 0.0
        self.record.state = EXITED
        if not self.deleting:
            self.record.save()
        self.publish("exit")
        self._settle()

    def enter(self, state: str) -> None:
        """Another state, on record."""
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
        self.enter(RUNNING)
        self.publish("resume")

    def _arm_restart(self) -> None:
        # restart_at of another boot may lie far ahead of this boot's clock
        due = min(self.record.restart_at, time.monotonic() + self.record.backoff)
        self.set_timer(self.context.loop.at(due, self.beginning.restart))

    def set_timer(self, timer: Timer | None) -> None:
        """What it waits for now, in place of what it waited for."""
        self._ending.calm()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def drop_streams(self, finish: bool = False) -> None:
        """Close them; `finish`: once what was written is read."""
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
