"""The supervisor as a whole: loop, processes, roster and socket, and what crosses between them."""

from __future__ import annotations

import _socket
import gc
import os
import sys

from agent.protocol.errors import Unavailable
from agent.supervisor import execs, handover
from agent.supervisor.bundles import Bundles
from agent.supervisor.container import Container
from agent.supervisor.context import Context
from agent.supervisor.leases import LeaseFile, Leases
from agent.supervisor.ledger import Ledger
from agent.supervisor.loop import Loop, report
from agent.supervisor.processes import Exit, Processes
from agent.supervisor.record import boot_id
from agent.supervisor.roster import Roster
from agent.supervisor.server import Pending, Server, entrust
from agent.supervisor.shims import Shims

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.connection import Connection
    from agent.supervisor.launch import Runtime
else:
    import _signal as signal

_MANY = 64  # removed containers, with their parts some 3 kB of cycles each, until the collector runs on their account
_COLLECT = 300.0  # s between two runs of the collector, which is off otherwise


class UpgradeFailed(Unavailable):
    """The program on disk does not start; this one goes on."""

    code = "upgrade_failed"


class House:
    """`command` starts this program anew, without the handover's own arguments."""

    def __init__(
        self,
        loop: Loop,
        runtime: Runtime,
        rundir: str,
        statedir: str,
        listener: _socket.socket,
        lock: int,
        command: list[str],
        instance: str,
    ) -> None:
        self.loop = loop
        self.lock = lock
        self.command = command
        self.image: Callable[[], int] = lambda: os.open(command[0], os.O_RDONLY | os.O_CLOEXEC)  # what to run it from
        self.instance = instance  # one value from start to death, upgrades included
        self.generation = 1
        ledger = Ledger(statedir, loop.later)
        self.processes = Processes(loop, ledger.commit)
        file = LeaseFile(rundir, boot_id())
        shims = Shims(self.processes, runtime, file)
        leases = Leases(loop, file)
        self.context = Context(loop, self.processes, runtime, statedir, self._publish, self._entrust, leases, shims, ledger)
        self.roster = Roster(self.context)
        self.server = Server(self, listener)
        self.bundles = Bundles(loop, self.processes)
        self._checking = False
        self._removed = 0  # containers since the last collection on their account

    def run(self) -> None:
        """Until told to end."""
        self.loop.on_signal(signal.SIGCHLD, self.processes.reap)
        self.loop.on_signal(signal.SIGHUP, lambda: self.begin_upgrade(None, None))
        self.loop.on_signal(signal.SIGTERM, self.leave)
        self.processes.reap()
        self._tidy()
        self.loop.run()

    def leave(self) -> None:
        """End, once nothing is half made."""
        self.server.hold(True)
        self.context.transitions.drain(self.loop.stop)

    def when_at_rest(self, connection: Connection, number: Any, operation: str, id_: str, fresh: bool = False) -> None:
        """Answer with the record once the container has come to rest; at once if it has, unless `fresh` asks for the next."""
        container = self.roster.get(id_)
        pending = Pending(connection, number, operation, id_)
        self.server.pending.append(pending)

        def settle() -> None:
            self.server.settle(pending, {"container": container.public()})

        if fresh or container.record.active:
            container.waiters.append(settle)
        else:
            settle()

    def when_exec_ended(self, connection: Connection, number: Any, id_: str) -> None:
        """Answer with the session once it has ended."""
        container, session = execs.find(self.roster.containers, id_)
        pending = Pending(connection, number, "exec_wait", id_)
        self.server.pending.append(pending)

        def settle() -> None:
            self.server.settle(pending, {"id": container.id, "exec": session.public()})

        if session.exit is None:
            session.waiters.append(settle)
        else:
            settle()

    def delete(self, connection: Connection, number: Any, container: Container, force: bool) -> None:
        """Answer once nothing is left of the container."""
        pending = Pending(connection, number, "delete", container.id)
        self.server.pending.append(pending)
        container.gone.append(lambda: self.server.settle(pending, {}))
        try:
            container.delete(force)
        except BaseException:
            container.gone.pop()
            self.server.pending.remove(pending)
            raise

    def resume(self, pending: Pending) -> None:
        """Wait on, after an upgrade, for what `pending` waits for."""
        connection, number, target = pending.connection, pending.number, pending.target
        if pending.operation == "exec_wait":
            self.when_exec_ended(connection, number, target)
        elif pending.operation == "delete":
            self.delete(connection, number, self.roster.get(target), True)
        else:
            self.when_at_rest(connection, number, pending.operation, target)

    def entrust_all(self, connection: Connection) -> None:
        """Make a client a store of descriptors, beginning with what there is."""
        connection.keeps = True
        for container in self.roster.containers.values():
            entrust(connection, container)

    def begin_upgrade(self, connection: Connection | None, number: Any) -> None:
        """Replace this program by the one on disk, once a trial start has shown that it works."""
        if self._checking:
            raise UpgradeFailed("an upgrade is under way already: wait for it")
        self._checking = True
        pid = os.posix_spawn(self.command[0], [*self.command, "--check"], os.environ)
        self.processes.track(pid, os.pidfd_open(pid), 0, lambda exit_: self._checked(exit_, connection, number))

    def _checked(self, exit_: Exit, connection: Connection | None, number: Any) -> None:
        self._checking = False
        if exit_.code != 0:
            error = UpgradeFailed(f"the new program ended with {exit_.code} in its trial start; the old one goes on")
            report(error)
            if connection is not None:
                connection.refuse(number, error)
            return
        # not from here: the trial's process is reaped only after this call
        self.loop.later(0, lambda: self._drain(connection, number))

    def _drain(self, connection: Connection | None, number: Any) -> None:
        self.server.hold(True)
        self.context.transitions.drain(lambda: self._replace(connection, number))

    def _replace(self, connection: Connection | None, number: Any) -> None:
        if connection is not None and connection.alive:
            self.server.pending.append(Pending(connection, number, "upgrade", ""))
        try:
            handover.leave(self)
        except OSError as error:
            report(error)
            self.context.transitions.reopen()
            self.server.hold(False)
            if connection is not None:
                connection.refuse(number, UpgradeFailed(f"execve: {error}; the old program goes on"))

    def _publish(self, event: dict[str, Any]) -> None:
        self.server.publish(event)
        if event["kind"] == "delete":
            self._removed += 1
            if self._removed == _MANY:
                self.loop.later(0, _collect)
                self._removed = 0

    def _entrust(self, container: Container) -> None:
        self.server.entrust(container)

    def _tidy(self) -> None:
        """Other cycles are rare: collect them now and then, in one short step."""
        gc.collect()
        self.loop.later(_COLLECT, self._tidy)


def _collect() -> None:
    gc.collect()


def say(text: str) -> None:
    sys.stderr.write(f"supervisor: {text}\n")
    sys.stderr.flush()
