"""The socket: who may speak, and to what each operation leads."""

from __future__ import annotations

import _socket
import os
import struct

from agent.protocol.errors import Internal, WharfError
from agent.supervisor import keepsakes, operations
from agent.supervisor.connection import Connection
from agent.supervisor.loop import READ, Loop, report
from agent.supervisor.refusals import PeerDenied, UnknownOperation
from agent.supervisor.wire import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
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
            self._run(connection, number, message, fds)
        except WharfError as error:
            connection.refuse(number, error)
        except OSError as error:
            report(error)
            connection.refuse(number, Internal(f"operation {message.get('op')}: {error}", errno=error.errno or 0))
        except Exception as error:  # noqa: BLE001  # whatever it is, who asked waits for an answer
            report(error)
            connection.refuse(number, Internal(f"{type(error).__name__} in operation {message.get('op')}: {error}"))
        finally:
            for fd in fds:
                os.close(fd)

    def _run(self, connection: Connection, number: Any, message: dict[str, Any], fds: list[int]) -> None:
        name = message.get("op")
        operation = operations.TABLE.get(name) if isinstance(name, str) else None
        if operation is None:
            raise UnknownOperation(f"no operation {name!r}: use one of {', '.join(sorted(operations.TABLE))}")
        operation(operations.Call(self._house, connection, number, message, fds))


def entrust(connection: Connection, container: Container) -> None:
    """Give a store duplicates of a container's descriptors."""
    kept = keepsakes.of(container)
    if kept:
        record = container.record
        held = {"id": container.id, "pid": record.pid, "start_time": record.start_time, "kinds": list(kept)}
        connection.send({"hold": held}, list(kept.values()))
