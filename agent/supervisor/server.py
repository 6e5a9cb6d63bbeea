"""The socket: who may speak, and to what each operation leads."""

from __future__ import annotations

import _socket
import os
import struct

from agent.protocol.errors import WharfError
from agent.supervisor import keepsakes, operations
from agent.supervisor.connection import Connection
from agent.supervisor.loop import READ, Loop
from agent.supervisor.refusals import PeerDenied, UnknownOperation
from agent.supervisor.wire import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.container import Container
    from agent.supervisor.house import House

BACKLOG = 64


class Pending:
    """An answer that waits for something to happen: it moves with its connection through an upgrade."""

    __slots__ = ("connection", "number", "operation", "target")

    def __init__(self, connection: Connection, number: Any, operation: str, target: str) -> None:
        self.connection = connection
        self.number = number
        self.operation = operation  # stop, wait, delete, exec_wait
        self.target = target  # container or exec id


class Server:
    """Listens, dispatches, publishes."""

    def __init__(self, house: House, listener: _socket.socket) -> None:
        self._house = house
        self._loop: Loop = house.loop
        self.listener = listener
        self.connections: dict[int, Connection] = {}
        self.pending: list[Pending] = []
        listener.setblocking(False)
        os.set_inheritable(listener.fileno(), False)
        self._loop.watch(listener.fileno(), READ, self._accept)

    def adopt(self, fd: int, dumped: dict[str, Any] | None = None) -> Connection:
        """A connection just accepted, or one from before an upgrade (see Connection.dump)."""
        connection = Connection(self._loop, _socket.socket(fileno=fd), self._asked, self._closed)
        if dumped is not None:
            connection.restore(dumped)
        self.connections[fd] = connection
        return connection

    def publish(self, event: dict[str, Any]) -> None:
        """To every subscriber."""
        for connection in list(self.connections.values()):
            if connection.subscribed:
                connection.send({"event": event})

    def entrust(self, container: Container) -> None:
        """To every store of descriptors what a new process brings: before it starts, so that no exit can come first."""
        for connection in list(self.connections.values()):
            if connection.keeps:
                entrust(connection, container)

    def close(self) -> None:
        for connection in list(self.connections.values()):
            connection.close()
        self._loop.forget(self.listener.fileno())
        self.listener.close()

    def hold(self, held: bool) -> None:
        """Ask nobody for questions, so that what is asked from now on is asked of whoever comes after us; or do it again."""
        for connection in list(self.connections.values()):
            connection.hold(held)
        if held:
            self._loop.forget(self.listener.fileno())
        else:
            self._loop.watch(self.listener.fileno(), READ, self._accept)

    def settle(self, pending: Pending, ok: dict[str, Any]) -> None:
        """What a pending answer waited for has happened."""
        if pending in self.pending:
            self.pending.remove(pending)
            pending.connection.answer(pending.number, ok)

    def _accept(self, _events: int) -> None:
        try:
            fd, _address = self.listener._accept()  # type: ignore[attr-defined]  # what socket.accept itself calls
        except BlockingIOError:
            return
        connection = self.adopt(fd)
        peer = _socket.socket(fileno=os.dup(fd))
        try:
            pid, uid, _gid = struct.unpack("3i", peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        finally:
            peer.close()
        if uid != os.geteuid():
            connection.refuse(
                None, PeerDenied(f"process {pid} of user {uid} may not speak to the supervisor: be user {os.geteuid()}")
            )
            connection.close()

    def _closed(self, connection: Connection) -> None:
        self.connections = {fd: other for fd, other in self.connections.items() if other is not connection}
        self.pending = [pending for pending in self.pending if pending.connection is not connection]

    def _asked(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> None:
        number = message.get("n")
        try:
            if number is not None and not isinstance(number, int | str):
                number = None
                raise Malformed("n is the number of the question: an integer or a text")
            self._run(operations.Call(self._house, connection, number, message, fds))
        except Exception as error:  # noqa: BLE001  # whatever it is, who asked waits for an answer
            connection.refuse(number, operations.refusal(error, message.get("op")))
        finally:
            for fd in fds:
                os.close(fd)

    def _run(self, call: operations.Call) -> None:
        name = call.message.get("op")
        operation = operations.TABLE.get(name) if isinstance(name, str) else None
        if operation is None:
            raise UnknownOperation(f"no operation {name!r}: use one of {', '.join(sorted(operations.TABLE))}")
        if operations.waits_its_turn(call):
            self._line_up(call, operation)
        else:
            operation(call)

    def _line_up(self, call: operations.Call, operation: Callable[[operations.Call], None]) -> None:
        """Until the container's transition is over. A stop interrupts that when its own grace is over."""
        container = call.container
        transition = container.beginning.transition
        grace = call.get("grace", (int, float), None) if call.message["op"] == "stop" else None

        def turn(error: WharfError | None) -> None:
            try:
                if error is not None:
                    raise error
                operation(call)
            except Exception as failure:  # noqa: BLE001  # as in _asked
                call.connection.refuse(call.number, operations.refusal(failure, call.message["op"]))

        def press() -> None:
            if container.beginning.transition is transition:
                container.beginning.interrupt("stopped")

        container.beginning.line.append(turn)
        if grace is not None:
            self._loop.later(max(0.0, grace), press)


def entrust(connection: Connection, container: Container) -> None:
    """Give a store duplicates of a container's descriptors."""
    kept = keepsakes.of(container)
    if kept:
        record = container.record
        held = {"id": container.id, "pid": record.pid, "start_time": record.start_time, "kinds": list(kept)}
        connection.send({"hold": held}, list(kept.values()))
