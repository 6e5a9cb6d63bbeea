"""A D-Bus peer of ours on a unix socket that plays systemd's manager: it keeps the calls, and answers as it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.runtime.dbus.connection import CALL, ERROR, ERROR_NAME, MEMBER, PATH, REPLY_SERIAL, RETURN, SIGNAL, SIGNATURE
from agent.runtime.dbus.marshal import Reader, Writer

INTERFACE = 2
MANAGER = "org.freedesktop.systemd1.Manager"
JOB = "/org/freedesktop/systemd1/job/7"


class Refused(Exception):
    """(error name, text) to answer a call with."""


class Peer:
    """`answers`: by member, a function of the call's values that returns (signature, values) or raises Refused.
    `job_result`: what JobRemoved says of each started unit; None sends no such signal."""

    def __init__(self, path: Path) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.identity = b""
        self.job_result: str | None = "done"
        self.answers: dict[str, Callable[[list[Any]], tuple[str, list[Any]]]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def members(self) -> list[str]:
        return [member for member, _ in self.calls]

    def values(self, member: str) -> list[Any]:
        return next(values for name, values in self.calls if name == member)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                assert stream.read(1) == b"\0"
                self.identity = bytes.fromhex(stream.readline().split()[2].decode())
                client.sendall(b"OK 0123456789abcdef\r\n")
                assert stream.readline() == b"BEGIN\r\n"
                while head := stream.read(16):
                    self._answer(client, head, stream)

    def _answer(self, client: socket.socket, head: bytes, stream: Any) -> None:
        size, serial, fields_size = struct.unpack_from("<III", head, 4)
        rest = stream.read(fields_size + (-fields_size % 8) + size)
        header = Reader(head + rest).get("yyyyuua(yv)")
        assert header[1] == CALL
        fields = {code: value for code, (_, value) in header[6]}
        body = Reader(rest[fields_size + (-fields_size % 8) :]).get(fields.get(SIGNATURE, ""))
        member = fields[MEMBER]
        self.calls.append((member, body))
        answer = self.answers.get(member) or (lambda values: ("o", [JOB]) if member == "StartTransientUnit" else ("", []))
        try:
            signature, values = answer(body)
        except Refused as error:
            self._send(client, ERROR, {REPLY_SERIAL: ("u", serial), ERROR_NAME: ("s", error.args[0])}, "s", [error.args[1]])
            return
        if member == "StartTransientUnit" and self.job_result is not None:
            # another's first; and both before the answer, as happens on a busy machine
            for job, result in (("/another", "failed"), (JOB, self.job_result)):
                told = {PATH: ("o", "/org/freedesktop/systemd1"), INTERFACE: ("s", MANAGER), MEMBER: ("s", "JobRemoved")}
                self._send(client, SIGNAL, told, "uoss", [7, job, body[0], result])
        self._send(client, RETURN, {REPLY_SERIAL: ("u", serial)}, signature, values)

    def _send(self, client: socket.socket, kind: int, fields: dict[int, Any], signature: str, values: list[Any]) -> None:
        body, head = Writer(), Writer()
        body.put(signature, values)
        typed = [*fields.items(), *([(SIGNATURE, ("g", signature))] if signature else [])]
        head.put("yyyyuua(yv)", (ord("l"), kind, 0, 1, len(body.data), 99, typed))
        head.align(8)
        data = bytes(head.data + body.data)
        for start in range(0, len(data), 11):  # in pieces, as a stream may come
            client.sendall(data[start : start + 11])
