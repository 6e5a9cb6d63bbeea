"""Log driver journald: the native protocol of systemd-journald (systemd.io, "Native Journal Protocol").

One datagram an entry, fields as KEY=value lines; a value with a newline goes as KEY, newline, length (8 bytes, little endian),
value, newline. An entry too large for a datagram travels in a sealed memfd. The fields are Docker's.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from agent.supervisor import wire
from agent.supervisor.sink import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.protocol.logoptions import LogSettings

SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {"stdout": 6, "stderr": 3}  # LOG_INFO, LOG_ERR


class JournaldSink(Sink):
    """To the journal of this node."""

    path = SOCKET  # class attribute: a test has a socket of its own

    def prepare(self, container_id: str, settings: LogSettings) -> None:
        tag = settings.tag or container_id[:12]
        fields = {
            "CONTAINER_ID": container_id[:12],
            "CONTAINER_ID_FULL": container_id,
            "CONTAINER_NAME": settings.name,
            "CONTAINER_TAG": tag,
            "SYSLOG_IDENTIFIER": tag,
            "IMAGE_NAME": settings.image,
            **{field_name(key): value for key, value in settings.attributes.items()},
        }
        self._fields = b"".join(field(key, value.encode()) for key, value in fields.items() if key and value)

    def frames(self, stream: str, lines: list[bytes]) -> list[bytes]:
        head = self._fields + b"PRIORITY=%d\n" % _PRIORITY[stream]
        entries = []
        for line in lines:
            partial = b"" if line.endswith(b"\n") else b"CONTAINER_PARTIAL_MESSAGE=true\n"
            entries.append(head + partial + field("MESSAGE", line.removesuffix(b"\n")))
        return entries

    def connect(self) -> _socket.socket:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, sock: _socket.socket, entry: bytes) -> None:
        try:
            sock.send(entry)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            body = wire.sealed(entry)
            try:
                rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", body))]
                sock.sendmsg([b""], rights)
            finally:
                os.close(body)


def field(key: str, value: bytes) -> bytes:
    if b"\n" in value:
        return key.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return key.encode() + b"=" + value + b"\n"


def field_name(text: str) -> str:
    """Upper case letters, digits and _, not beginning with _ or a digit: else journald drops it. "" when nothing is left."""
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text.upper())
    return name.lstrip("_0123456789")[:64]
