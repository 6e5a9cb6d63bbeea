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
    from typing import Any

    from agent.runtime.channel import Channel
    from agent.supervisor.launch import Init, Runtime
    from agent.supervisor.leases import LeaseFile
    from agent.supervisor.streams import Stdio

FILE = "shim"  # in the container's directory: {pid, start_time, boot_id, kinds, making while it makes its container}
SIGKILL = 9


class ShimFailed(Unavailable):
    """No shim could be made, or it died while it made its container."""

    code = "shim_failed"


class Shim:
    """One container's. `kinds`: what its descriptors from shim.KEPT on are (see keepsakes)."""

    def __init__(
        self, processes: Processes, directory: str, pid: int, pidfd: int, started: int, kinds: list[str], making: bool = False
    ) -> None:
        self._processes = processes
        self._path = os.path.join(directory, FILE)
        self._control: Channel | None = None
        self._making = making  # the creator, and perhaps a hook, are in its process group
        self.kinds = kinds
        self.pid = pid
        self.process = processes.track(pid, pidfd, started, self._died)

    @classmethod
    def made(cls, processes: Processes, directory: str, pid: int, pidfd: int, kinds: list[str], control: Channel) -> Shim:
        """One that waits for `keep`, and goes away if it never comes."""
        made = cls(processes, directory, pid, pidfd, start_time(pid) or 0, kinds, making=True)
        made._control = control
        made._note()
        return made

    @classmethod
    def load(cls, processes: Processes, directory: str) -> Shim | None:
        """The one that lives on from before; None when there is none (any more)."""
        values = durable.read_unsynced(os.path.join(directory, FILE))
        if not isinstance(values, dict):
            return None
        pidfd = open_same(values["pid"], values["start_time"], values["boot_id"])
        if pidfd < 0:
            _unlink(os.path.join(directory, FILE))
            return None
        making = bool(values.get("making"))
        return cls(processes, directory, values["pid"], pidfd, values["start_time"], values["kinds"], making)

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
        self._making = False
        self._note()
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
            if self._making:
                self._end_group()
            self.process.send(SIGKILL)
            self._processes.release(self.process)
        _unlink(self._path)

    def _note(self) -> None:
        values: dict[str, Any] = {
            "pid": self.pid,
            "start_time": self.process.start_time,
            "boot_id": boot_id(),
            "kinds": self.kinds,
        }
        if self._making:
            values["making"] = True
        durable.write(self._path, values, sync=False)

    def _end_group(self) -> None:
        try:
            os.killpg(self.pid, SIGKILL)
        except ProcessLookupError:
            pass  # it has not come to make the group: nobody but itself is there

    def _died(self, _exit: Exit) -> None:
        """Somebody killed it. Its container is our own child now (PR_SET_CHILD_SUBREAPER), as without a shim."""
        _unlink(self._path)
        report(ShimFailed(f"shim {self.pid} was killed: its container runs on as one without a shim, until its next start"))


class ShimCreation:
    """A container being made by a shim, in steps (see transition)."""

    __slots__ = ("_control", "_init", "_runtime", "_wanted", "shim")
    due = None
    hook = None  # those of the container run in the creator, which waits for them

    def __init__(self, runtime: Runtime, shim: Shim, wanted: dict[str, Any], control: Channel) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._control = control
        self._init: Init | None = None
        self.shim = shim

    @property
    def init(self) -> Init:
        """Once `step` has said that it is there."""
        assert self._init is not None  # noqa: S101  # for the type checker
        return self._init

    def fileno(self) -> int:
        return self._control.fileno()

    def step(self) -> bool:
        """Whether the process waits to be started. Raises WharfError."""
        try:
            kind, payload, fds = self._control.receive()
        except BlockingIOError:
            return False
        if kind == b"E":
            raise RemoteError(jsontext.loads(payload))
        if kind != b"R":
            raise ShimFailed(
                "the shim died while it made the container: a memory limit, or a kill, is the usual cause; try again"
            )
        pid, started = payload.split()
        wanted = self._wanted
        self._init = self._runtime.taken(wanted["id"], wanted["config"], wanted["rootfs"], int(pid), int(started), fds)
        return True

    def abandon(self) -> None:
        """End the shim, and whatever it has begun."""
        self.shim.end()
        if self._init is not None:
            self._runtime.undo(self._init)


class Shims:
    """Makes them. The stem is forked at the first one, so that nodes without shims pay nothing."""

    def __init__(self, processes: Processes, runtime: Runtime, leases: LeaseFile) -> None:
        self._processes = processes
        self._runtime = runtime
        self._leases = leases
        self._stem: Channel | None = None

    def create(self, directory: str, wanted: dict[str, Any], stdio: Stdio | None, kept: dict[str, int]) -> ShimCreation:
        """As runtime.create, in a shim of its own that holds `kept` (by kind). `wanted`: id, config, rootfs.

        Waits for the stem, which does nothing but clone(2). Raises WharfError; nothing is left then.
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
        try:
            body = wire.sealed(jsontext.dumps(wanted))
            try:
                control.send(b"C", b"", [body, *([stdio.stdin, stdio.stdout, stdio.stderr] if stdio else [])])
            finally:
                os.close(body)
            control.unblock()
        except BaseException:
            made.end()
            raise
        return ShimCreation(self._runtime, made, wanted, control)

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
