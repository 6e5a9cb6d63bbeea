"""One connection to a D-Bus peer over a unix socket: SASL EXTERNAL, method calls, signals (D-Bus specification)."""

from __future__ import annotations

import _socket
import os
import select
import struct
import time

from agent.runtime.dbus.marshal import Reader, Writer
from agent.runtime.privilege import outer_uid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8
FIXED = 16  # bytes before the header fields
MAX_MESSAGE = 1 << 27


class DBusError(Exception):
    """The peer's answer to a call. `name`: as in "org.freedesktop.systemd1.UnitExists"."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


class Signal:
    __slots__ = ("interface", "member", "path", "values")

    def __init__(self, fields: dict[int, Any], values: list[Any]) -> None:
        self.path, self.interface, self.member = fields.get(PATH), fields.get(INTERFACE), fields.get(MEMBER)
        self.values = values


class Connection:
    """OSError when the peer cannot be reached or goes away, TimeoutError when it does not answer in time."""

    def __init__(self, path: str, *, bus: bool, seconds: float = 25.0) -> None:
        """`bus`: the peer is a message bus, which gives each client a name; else the service itself."""
        self._buffer = bytearray()
        self._serial = 0
        self._signals: list[Signal] = []
        self._seconds = seconds
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
            self._authenticate(time.monotonic() + seconds)
            if bus:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def call(self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: Any) -> list[Any]:
        """The values of the answer. DBusError if it is an error."""
        self._serial += 1
        self._send(self._serial, {PATH: path, INTERFACE: interface, MEMBER: member, DESTINATION: destination}, signature, values)
        deadline = time.monotonic() + self._seconds
        while True:
            kind, fields, answer = self._receive(deadline)
            if kind == SIGNAL:
                self._signals.append(Signal(fields, answer))
            elif fields.get(REPLY_SERIAL) == self._serial:
                if kind == ERROR:
                    raise DBusError(str(fields.get(ERROR_NAME)), str(answer[0]) if answer else "")
                return answer

    def wait_signal(self, wanted: Callable[[Signal], bool], deadline: float) -> Signal:
        """The first one that is wanted, also among those that came during calls. `deadline`: on the monotonic clock."""
        while True:
            while self._signals:
                signal = self._signals.pop(0)
                if wanted(signal):
                    return signal
            kind, fields, values = self._receive(deadline)
            if kind == SIGNAL:
                self._signals.append(Signal(fields, values))

    def _authenticate(self, deadline: float) -> None:
        identity = str(outer_uid()).encode().hex()  # the peer sees us from outside of our user namespace
        # BEGIN at once: systemd never looks at a first message that it reads together with a BEGIN of its own (252)
        self._socket.sendall(b"\0AUTH EXTERNAL " + identity.encode() + b"\r\nBEGIN\r\n")
        while b"\r\n" not in self._buffer:
            self._fill(deadline)
        line, _, rest = bytes(self._buffer).partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise ConnectionRefusedError(111, f"D-Bus refuses user {os.geteuid()}: {line.decode(errors='replace')}")
        self._buffer = bytearray(rest)

    def _send(self, serial: int, fields: dict[int, str], signature: str, values: tuple[Any, ...]) -> None:
        body, head = Writer(), Writer()
        body.put(signature, values)
        typed: list[tuple[int, tuple[str, str]]] = [(code, ("o" if code == PATH else "s", text)) for code, text in fields.items()]
        if signature:
            typed.append((SIGNATURE, ("g", signature)))
        head.put("yyyyuua(yv)", (ord("l"), CALL, 0, 1, len(body.data), serial, typed))
        head.align(8)
        self._socket.sendall(head.data + body.data)

    def _receive(self, deadline: float) -> tuple[int, dict[int, Any], list[Any]]:
        """(message type, header fields, values)."""
        while len(self._buffer) < FIXED:
            self._fill(deadline)
        order = "<" if self._buffer[:1] == b"l" else ">"
        size, _, fields_size = struct.unpack_from(order + "III", self._buffer, 4)
        start = FIXED + fields_size + (-fields_size % 8)
        if start + size > MAX_MESSAGE:
            raise ConnectionAbortedError(103, "a D-Bus message is longer than the specification allows")
        while len(self._buffer) < start + size:
            self._fill(deadline)
        message = bytes(self._buffer[: start + size])
        del self._buffer[: start + size]
        header = Reader(message[:start], order).get("yyyyuua(yv)")
        fields = {code: value for code, (_, value) in header[6]}
        return header[1], fields, Reader(message[start:], order).get(fields.get(SIGNATURE, ""))

    def _fill(self, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(110, "D-Bus does not answer")
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError(104, "D-Bus has closed the connection")
        self._buffer += data
