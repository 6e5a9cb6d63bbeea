"""Log driver syslog: RFC 5424 entries, by datagram (unix, UDP: RFC 5426) or by connection (TCP: RFC 6587, octet counting)."""

from __future__ import annotations

import _socket
import errno
import os
import time

from agent.supervisor.frames import rfc3339
from agent.supervisor.sink import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.protocol.logoptions import Address, LogSettings

_SEVERITY = {"stdout": 6, "stderr": 3}  # informational, error
_APP_NAME, _MESSAGE_ID = 48, 32  # characters, RFC 5424 section 6
_FLAGS = _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK


class SyslogSink(Sink):
    """To one address. A host has to be an IP address: names are resolved before they get here, since that may take long."""

    def prepare(self, container_id: str, settings: LogSettings) -> None:
        tag = _word(settings.tag or container_id[:12])
        self._facility = settings.facility
        self._head = f"{_word(os.uname().nodename)[:255]} {tag[:_APP_NAME]} - {tag[:_MESSAGE_ID]} - ".encode()
        self._micro = settings.micro
        self._address: Address = settings.address
        self.stream = self._address.scheme == "tcp"

    def frames(self, stream: str, lines: list[bytes]) -> list[bytes]:
        moment = rfc3339(time.time_ns())
        moment = moment[:26] + "Z" if self._micro else moment[:19] + "Z"
        head = b"<%d>1 %b %b" % (self._facility * 8 + _SEVERITY[stream], moment.encode(), self._head)
        entries = [head + line.removesuffix(b"\n") for line in lines]
        return [b"%d %b" % (len(entry), entry) for entry in entries] if self.stream else entries

    def connect(self) -> _socket.socket:
        address = self._address
        if address.path:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _FLAGS)
            return _connected(sock, address.path)
        family = _socket.AF_INET6 if ":" in address.host else _socket.AF_INET
        kind = _socket.SOCK_STREAM if self.stream else _socket.SOCK_DGRAM
        sock = _socket.socket(family, kind | _FLAGS)
        return _connected(sock, (address.host, address.port))

    def send(self, sock: _socket.socket, entry: bytes) -> None:
        try:
            sock.send(entry)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                sock.send(entry[:1024])  # what RFC 5424 asks every receiver to take, and cutting it is allowed
            elif error.errno != errno.ECONNREFUSED or not self._address.host:
                raise
            # UDP: an earlier entry found nobody; this one was not sent, and neither protocol nor user expects more


def _connected(sock: _socket.socket, where: str | tuple[str, int]) -> _socket.socket:
    try:
        sock.connect(where)
    except BlockingIOError:
        pass  # TCP: under way
    except OSError:
        sock.close()
        raise
    return sock


def _word(text: str) -> str:
    """RFC 5424's PRINTUSASCII; "-" stands for nothing."""
    return "".join(letter if "!" <= letter <= "~" else "_" for letter in text) or "-"
