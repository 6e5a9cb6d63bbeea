"""Creations and starts under way: what they wait for is the loop's to watch, so that nobody else waits with them.

A transition is a generator. It yields what it waits for: an object with `fileno()` (readable when it may go on; -1: nothing),
`due` (time.monotonic s at which it may go on even so, or None) and `hook` (hooks.Series, of which one runs, or None). To
interrupt it is to raise an error where it waits: it undoes what it did, as after any other error, and ends with that.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import Internal, WharfError
from agent.supervisor import durable
from agent.supervisor.loop import READ, Loop, Timer, report
from agent.supervisor.processes import Processes, start_time
from agent.supervisor.record import boot_id
from agent.supervisor.refusals import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Protocol

    from agent.runtime.hooks import Series

    class Wait(Protocol):
        def fileno(self) -> int: ...
        @property
        def due(self) -> float | None: ...
        @property
        def hook(self) -> Series | None: ...

    Body = Generator[Wait, None, None]

HOOK = (
    "hook"  # in the container's directory: {pid, start_time, boot_id} of the hook that runs, for whoever finds it after our death
)
DRAIN = 5.0  # s that transitions have to come to their end before this program leaves
UNDO = 2.0  # s more, for what is undone then


class Pause:
    """Wait for nothing but the time. `held`: it must not be interrupted, for something is being undone."""

    __slots__ = ("due", "held")
    hook = None

    def __init__(self, seconds: float, held: bool = False) -> None:
        self.due: float | None = time.monotonic() + seconds
        self.held = held

    def fileno(self) -> int:
        return -1


class Transition:
    """One container's. `done` is called once, with the error that ended it or None."""

    __slots__ = ("_body", "_directory", "_done", "_fd", "_hook", "_owner", "_timer", "_wait")

    def __init__(self, owner: Transitions, directory: str, body: Body, done: Callable[[Exception | None], None]) -> None:
        self._owner = owner
        self._directory = directory
        self._body: Body | None = body
        self._done = done
        self._wait: Wait | None = None
        self._fd = self._hook = -1  # the descriptor in the loop; the pid of the hook that is tracked
        self._timer: Timer | None = None

    def begin(self) -> None:
        self._owner.under_way.add(self)
        self._go_on()

    def poke(self) -> bool:
        """Go on if that is possible; whether it is over."""
        self._go_on()
        return self._body is None

    def interrupt(self, error: WharfError) -> None:
        """Nothing while it undoes something already."""
        if not getattr(self._wait, "held", False):
            self._go_on(error)

    def _go_on(self, error: WharfError | None = None) -> None:
        self._unwatch()  # before it closes what was watched
        body = self._body
        if body is None:
            return
        try:
            wait = next(body) if error is None else body.throw(error)
        except StopIteration:
            self._over(None)
        except (WharfError, OSError) as failure:
            self._over(failure)
        except Exception as failure:  # noqa: BLE001  # whatever it is, somebody waits for an answer
            report(failure)
            self._over(Internal(f"{type(failure).__name__} while a container was created or started: {failure}"))
        else:
            self._await(wait)

    def _await(self, wait: Wait) -> None:
        self._wait = wait
        loop = self._owner.loop
        if wait.due is not None:
            self._timer = loop.at(wait.due, self._go_on)
        if wait.hook is not None:
            self._track(wait.hook)
        elif wait.fileno() >= 0:
            self._fd = wait.fileno()
            loop.watch(self._fd, READ, lambda _events: self._go_on())

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            self._owner.loop.forget(self._fd)
            self._fd = -1

    def _track(self, hook: Series) -> None:
        """Our children are collected by `Processes`: a hook's end is told by it, and collected by the hook's own step."""
        pid = hook.pid
        if pid == self._hook:
            return
        self._hook = pid
        self._owner.processes.track(pid, os.dup(hook.pidfd), 0, lambda _exit: self._hook_ended(pid))
        self._note({"pid": pid, "start_time": start_time(pid) or 0, "boot_id": boot_id()})

    def _hook_ended(self, pid: int) -> None:
        if pid == self._hook:
            self._hook = -1
            self._go_on()

    def _note(self, values: dict[str, int | str] | None) -> None:
        path = os.path.join(self._directory, HOOK)
        try:
            if values is not None:
                durable.write(path, values, sync=False)
            elif os.path.exists(path):
                os.unlink(path)
        except OSError as error:
            report(error)  # a full disk: only a crash within the hook's time would miss it

    def _over(self, error: Exception | None) -> None:
        noted, self._hook = self._wait is not None and self._wait.hook is not None, -1
        self._body = self._wait = None
        if noted:
            self._note(None)
        self._owner.under_way.discard(self)
        try:
            self._done(error)
        finally:
            self._owner.look()


class Transitions:
    """All of them. `closing`: no new one may begin."""

    __slots__ = ("_drained", "_limit", "closing", "loop", "processes", "under_way")

    def __init__(self, loop: Loop, processes: Processes) -> None:
        self.loop = loop
        self.processes = processes
        self.under_way: set[Transition] = set()
        self.closing = False
        self._drained: Callable[[], None] | None = None
        self._limit: Timer | None = None

    @property
    def draining(self) -> bool:
        return self._drained is not None

    def drain(self, drained: Callable[[], None]) -> None:
        """Call when none is under way: what takes longer than DRAIN is interrupted. A later call replaces an earlier one."""
        self._drained = drained
        if self._limit is None:
            self._limit = self.loop.later(DRAIN, self._interrupt_all)
        self.look()

    def reopen(self) -> None:
        """We stay after all."""
        self.closing = False

    def look(self) -> None:
        """Whether that was the last one for which `drain` waits."""
        if self._drained is not None and not self.under_way:
            self.loop.later(0, self._leave)

    def _leave(self) -> None:
        if self._drained is None or (self.under_way and not self._expired()):
            return
        drained, self._drained = self._drained, None
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        drained()

    def _expired(self) -> bool:
        return self._limit is None

    def _interrupt_all(self) -> None:
        self.closing = True
        for transition in list(self.under_way):
            transition.interrupt(Interrupted("the supervisor ends, or is replaced, and this took too long: ask again"))
        self._limit = self.loop.later(UNDO, self._give_up)

    def _give_up(self) -> None:
        """What is left is found by the next supervisor."""
        self._limit = None
        self._leave()
