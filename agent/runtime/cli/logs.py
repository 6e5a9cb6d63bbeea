"""Messages to the caller: on standard error, in a file, to journald or syslog. In the form of logrus, which callers parse."""

from __future__ import annotations

import json
import os
import sys
import time

LEVELS = {"error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3)
_SAME = {"warn": "warning", "panic": "error", "fatal": "error", "trace": "debug"}
_FACILITY = 3 << 3  # LOG_DAEMON
JOURNAL, SYSLOG = "/run/systemd/journal/socket", "/dev/log"


class Log:
    """`target`: "" for standard error, PATH or file:PATH, journald:NAME, syslog:NAME. Raises ValueError for a level or format."""

    def __init__(self, program: str, target: str = "", form: str = "text", level: str = "warning") -> None:
        if form not in ("", "text", "json"):
            raise ValueError(f'invalid log-format: "{form}"; use text or json')
        level = _SAME.get(level, level) or "warning"
        if level not in LEVELS:
            raise ValueError(f'invalid log-level: "{level}"; use one of {", ".join(LEVELS)}')
        self._program, self._json, self._most = program, form == "json", LEVELS[level]
        kind, _, name = target.partition(":")
        self._kind, self._name = (kind, name) if kind in ("file", "journald", "syslog") else ("file", target)
        if self._kind == "file" and self._name == "/dev/stderr":
            self._name = ""

    @property
    def wants_debug(self) -> bool:
        return self._most == LEVELS["debug"]

    @property
    def elsewhere(self) -> bool:
        """Whether messages do not reach standard error."""
        return self._kind != "file" or bool(self._name)

    def debug(self, message: str) -> None:
        self.write("debug", message)

    def warning(self, message: str) -> None:
        self.write("warning", message)

    def error(self, message: str) -> None:
        """Last words: on standard error too, for a person."""
        self.write("error", message)
        if self.elsewhere:
            sys.stderr.write(message + "\n")

    def write(self, level: str, message: str) -> None:
        """A log that cannot be written must not keep a container from what it is asked to do: said once, on standard error."""
        if LEVELS[level] > self._most:
            return
        try:
            if self._kind == "file":
                self._append(self._line(level, message))
            else:
                self._datagram(level, message)
        except OSError as error:
            sys.stderr.write(f"{self._program}: the log cannot be written: {error}\n")

    def _line(self, level: str, message: str) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            return json.dumps({"level": level, "msg": message, "time": moment}, separators=(",", ":")) + "\n"
        return f'time="{moment}" level={level} msg={json.dumps(message, ensure_ascii=False)}\n'

    def _append(self, line: str) -> None:
        if not self._name:
            sys.stderr.write(line)
            return
        # O_APPEND: conmon and the shims read it while we write
        fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line.encode(errors="surrogateescape"))
        finally:
            os.close(fd)

    def _datagram(self, level: str, message: str) -> None:
        import socket

        name = self._name or self._program
        if self._kind == "syslog":
            path, data = SYSLOG, f"<{_FACILITY | LEVELS[level]}>{name}[{os.getpid()}]: {message}".encode()
        else:
            path = JOURNAL
            body = message.encode()
            data = f"SYSLOG_IDENTIFIER={name}\nPRIORITY={LEVELS[level]}\nMESSAGE\n".encode()
            data += len(body).to_bytes(8, "little") + body + b"\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(data, path)
