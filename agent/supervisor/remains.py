"""What a container leaves behind: its cgroup, and an exit code also when it never ran."""

from __future__ import annotations

import time

from agent.protocol.errors import WharfError
from agent.supervisor.loop import report
from agent.supervisor.transition import Pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.container import Container
    from agent.supervisor.transition import Body

_PAUSE = 0.02  # s between two attempts to remove a cgroup that the kernel still holds
_ATTEMPTS = 1500
_CLEAR = 1.0  # s


class Remains:
    """The cgroup after the first process has ended. `swept` is called, when the container is being deleted, once it is gone."""

    def __init__(self, container: Container, swept: Callable[[], None]) -> None:
        self._container = container
        self._swept = swept
        self._clean = False  # the cgroup was removed, and nobody has made another
        self._sweeps = 0  # those that another run, or the end of a deletion, made void

    def clear(self, undo: bool = False) -> Body:
        """Before another run. It waits a moment for what the last one left: nearly always nothing, for `sweep` came first.

        `undo`: after a creation that failed; as patient as `sweep`, and not to be interrupted.

        The old cgroup must go: Linux kills whatever is cloned into a cgroup that cgroup.kill was ever written to (seen on 6.18;
        it compares that cgroup's count of kills with the one of the cgroup that the parent is in).
        """
        self._sweeps += 1
        deadline = time.monotonic() + (_PAUSE * _ATTEMPTS if undo else _CLEAR)
        while True:
            try:
                self._remove()
                self._clean = False  # from here on there may be one
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    report(error)
                    return
            yield Pause(_PAUSE / 10, held=undo)

    def sweep_later(self) -> None:
        """Sweep when there is time."""
        sweeps = self._sweeps
        self._container.context.loop.at_leisure(lambda: self._sweep(sweeps))

    def sweep_after(self, pid: int) -> None:
        """Sweep once a process that was its shim's child, and will be ours, has been reaped; or when nobody tells us so."""
        sweeps, loop = self._sweeps, self._container.context.loop
        collected = self._container.context.processes.on_collected
        collected[pid] = lambda: loop.at_leisure(lambda: self._sweep(sweeps))

        def tired() -> None:
            if collected.pop(pid, None) is not None:
                self._sweep(sweeps)

        loop.later(2 * _PAUSE, tired)

    def sweep(self) -> None:
        """Kill what is left in the cgroup and remove it, in the background: the kernel empties it some time after the reaping."""
        self._sweep(self._sweeps)

    def _sweep(self, sweeps: int, attempt: int = 0) -> None:
        if self._container.process is not None or sweeps != self._sweeps:
            return  # started again meanwhile, or deleted by another sweep
        try:
            self._remove()
        except OSError as error:
            if attempt < _ATTEMPTS:
                self._container.context.loop.later(_PAUSE, lambda: self._sweep(sweeps, attempt + 1))
                return
            report(error)
        if self._container.deleting:
            self._sweeps += 1
            self._swept()

    def _remove(self) -> None:
        """Raises OSError while something is left; that is killed, and gone soon."""
        if self._clean:
            return
        cgroup = self._container.cgroup
        try:
            cgroup.remove()
        except OSError:
            cgroup.kill()
            raise
        self._clean = True


def exit_code_of(error: Exception) -> int:
    """127 when the program is not there, 126 when it cannot be executed, 128 when the container could not be made."""
    if not isinstance(error, WharfError) or error.code != "exec_failed":
        return 128
    return 127 if error.extra.get("errno") in (2, 20) else 126
