"""The supervisor's side of shims: how they are made, found again, and let go. See supervisor.shim for what they are."""

from __future__ import annotations

import os

from agent.protocol.errors import RemoteError, Unavailable
from agent.runtime import channel
from agent.supervisor import durable, jsontext, shim, wire
from agent.supervisor.loop import report
from agent.supervisor.processes import Exit, Processes, start_time
from agent.supervisor.record import boot_id
from agent.supervisor.sameness import open_same
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.channel import Channel
    from agent.supervisor.launch import Init, Runtime
    from agent.supervisor.leases import LeaseFile
    from agent.supervisor.streams import Stdio

FILE = "shim"  # in the container's directory: {pid, start_time, boot_id, kinds}
SIGKILL = 9


class ShimFailed(Unavailable):
    """No shim could be made, or it died while it made its container."""

    code = "shim_failed"


class Shim:
    """One container's. `kinds`: what its descriptors from shim.KEPT on are (see keepsakes)."""

    def __init__(self, processes: Processes, directory: str, pid: int, pidfd: int, started: int, kinds: list[str]) -> None:
        self._processes = processes
        self._path = os.path.join(directory, FILE)
        self._control: Channel | None = None
        self.kinds = kinds
        self.pid = pid
        self.process = processes.track(pid, pidfd, started, self._died)

    @classmethod
    def made(cls, processes: Processes, directory: str, pid: int, pidfd: int, kinds: list[str], control: Channel) -> Shim:
        """One that waits for `keep`, and goes away if it never comes."""
        made = cls(processes, directory, pid, pidfd, start_time(pid) or 0, kinds)
        made._control = control
        return made

    @classmethod
    def load(cls, processes: Processes, directory: str) -> Shim | None:
        """The one that lives on from before; None when there is none (any more)."""
        values = durable.read(os.path.join(directory, FILE))
        if not isinstance(values, dict):
            return None
        pidfd = open_same(values["pid"], values["start_time"], values["boot_id"])
        if pidfd < 0:
            _unlink(os.path.join(directory, FILE))
            return None
        return cls(processes, directory, values["pid"], pidfd, values["start_time"], values["kinds"])

    @property
    def alive(self) -> bool:
        return self.process.pidfd >= 0

    def keep(self, details: str, console: int = -1) -> None:
        """It is on record now: from here on it outlives us. `details`: for shim._prepare, if there is something to prepare.

        Raises ShimFailed.
        """
        control, self._control = self._control, None
        if control is None:
            return
        if console >= 0:
            self.kinds = ["console"]
        values = {"pid": self.pid, "start_time": self.process.start_time, "boot_id": boot_id(), "kinds": self.kinds}
        durable.write(self._path, values, sync=False)
        try:
            control.send(shim.FULL if details else shim.PLAIN)
            if details:
                control.send(b"D", details.encode(), [console] if console >= 0 else [])
        except OSError as error:
            raise ShimFailed(f"the container's shim died: {error.strerror}; try again") from error
        finally:
            control.close()

    def kept(self) -> dict[str, int]:
        """Duplicates of what it holds, by kind: the caller's to close. Empty when it is gone, or the kernel is before 5.6."""
        found: dict[str, int] = {}
        try:
            for number, kind in enumerate(self.kinds, shim.KEPT):
                found[kind] = process.getfd(self.process.pidfd, number)
        except OSError as error:
            report(error)
        return found

    def end(self) -> None:
        """Its container is at rest, and on record: let both zombies go to whoever inherits them (us, while we live)."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.alive:
            self.process.send(SIGKILL)
            self._processes.release(self.process)
        _unlink(self._path)

    def _died(self, _exit: Exit) -> None:
        """Somebody killed it. Its container is our own child now (PR_SET_CHILD_SUBREAPER), as without a shim."""
        _unlink(self._path)
        report(ShimFailed(f"shim {self.pid} was killed: its container runs on as one without a shim, until its next start"))


class Shims:
    """Makes them. The stem is forked at the first one, so that nodes without shims pay nothing."""

    def __init__(self, processes: Processes, runtime: Runtime, leases: LeaseFile) -> None:
        self._processes = processes
        self._runtime = runtime
        self._leases = leases
        self._stem: Channel | None = None

    def create(
        self,
        directory: str,
        wanted: dict[str, Any],
        stdio: Stdio | None,
        kept: dict[str, int],
        meanwhile: Callable[[], None] | None,
    ) -> tuple[Init, Shim]:
        """As runtime.create, in a shim of its own that holds `kept` (by kind). `wanted`: id, config, rootfs.

        Raises WharfError; nothing is left then.
        """
        control, theirs = channel.pair()
        try:
            pid, pidfd = self._clone([theirs.fileno(), *kept.values()])
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        made = Shim.made(self._processes, directory, pid, pidfd, list(kept), control)
        init: Init | None = None
        try:
            body = wire.sealed(jsontext.dumps(wanted))
            try:
                control.send(b"C", b"", [body, *([stdio.stdin, stdio.stdout, stdio.stderr] if stdio else [])])
            finally:
                os.close(body)
            try:
                if meanwhile is not None:
                    meanwhile()
            finally:
                init = self._taken(wanted, control)
        except BaseException:
            made.end()
            if init is not None:
                self._runtime.undo(init)
            raise
        return init, made

    def _taken(self, wanted: dict[str, Any], control: Channel) -> Init:
        kind, payload, fds = control.receive()
        if kind == b"E":
            raise RemoteError(jsontext.loads(payload))
        if kind != b"R":
            raise ShimFailed(
                "the shim died while it made the container: a memory limit, or a kill, is the usual cause; try again"
            )
        pid, started = payload.split()
        return self._runtime.taken(wanted["id"], wanted["config"], wanted["rootfs"], int(pid), int(started), fds)

    def _clone(self, fds: list[int]) -> tuple[int, int]:
        """(pid, pidfd) of a new shim, which is our child. A stem that was killed is replaced once."""
        for last in (False, True):
            if self._stem is None:
                self._stem = self._fork_stem()
            try:
                self._stem.send(b"N", b"", fds)
                kind, payload, answered = self._stem.receive()
            except OSError:
                kind, payload, answered = b"", b"", []
            if kind == b"P":
                return int(payload), answered[0]
            self._stem.close()
            self._stem = None
            if last:
                break
        raise ShimFailed("the process that shims are cloned from died twice: see the supervisor's log for why")

    def _fork_stem(self) -> Channel:
        ours, theirs = channel.pair()
        pid = os.fork()
        if pid == 0:
            try:
                shim.stem(theirs.fileno(), self._runtime, self._leases)
            except BaseException as error:  # noqa: BLE001  # a forked copy of the supervisor must end here, whatever it is
                report(error)
            finally:
                os._exit(1)
        theirs.close()
        return ours


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # a shim that was never on record
