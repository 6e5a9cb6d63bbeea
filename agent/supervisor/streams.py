"""The standard streams of one container: FIFOs or a console in, log file and attachments out.

FIFOs are opened O_RDWR on both sides, so that the container sees neither EOF nor SIGPIPE while no supervisor lives: its output
waits in the kernel for the next one.
"""

from __future__ import annotations

import errno
import os

from agent.supervisor.attachments import Attachment, Inlet, Outlet
from agent.supervisor.log import Log, LogParts
from agent.supervisor.loop import READ
from agent.supervisor.splitter import Splitter
from agent.sys import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_READ = 64 << 10
_LITTLE = 4 << 10
_ROUNDS = 16  # reads of one stream before the loop serves the others
_LAST_ROUNDS = 64  # more than a FIFO holds: somebody outside the container may still write into it
FIFOS = {"stdout": "out.fifo", "stderr": "err.fifo"}


class Stdio:
    """Descriptors that a starting container inherits; close them once it has."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def close(self) -> None:
        for fd in {self.stdin, self.stdout, self.stderr} - {-1}:
            os.close(fd)


class Source:
    """One stream of output."""

    __slots__ = ("fd", "name", "splitter", "take")

    def __init__(self, name: str, fd: int, splitter: Splitter) -> None:
        self.name = name
        self.fd = fd
        self.splitter = splitter
        self.take = splitter.read if os.isatty(fd) else splitter.take


class Streams:
    """Everything between a container's file descriptors 0, 1, 2 and the world."""

    def __init__(self, parts: LogParts, directory: str, log: dict[str, Any], open_stdin: bool, stdin_once: bool) -> None:
        self._loop = parts.loop
        self._directory = directory
        self._open_stdin = open_stdin
        self._stdin_once = stdin_once
        self._early: list[int] = []  # clients' inputs that came before the container was launched
        logs = os.path.join(directory, "logs")
        os.makedirs(logs, 0o700, exist_ok=True)
        self.log = Log(parts, logs, os.path.basename(directory), log, self._ease)
        self.sources: list[Source] = []
        self.attachments: list[Attachment] = []
        self.inlet: Inlet | None = None
        self._paused = False

    def open_fifos(self) -> None:
        """Make the two output FIFOs where they are missing, and read them."""
        for name, file in FIFOS.items():
            path = os.path.join(self._directory, file)
            if not os.path.exists(path):
                os.mkfifo(path, 0o600)  # the runtime gives it to the container's user, who may then open /dev/stdout anew
            self.read_from(name, os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    def read_from(self, name: str, fd: int) -> None:
        """Log what arrives on `fd`; the descriptor is ours from now on."""
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        splitter = Splitter(os.path.join(self._directory, "logs", f"{name}.tail"))
        self._recover(name, splitter)
        source = Source(name, fd, splitter)
        self.sources.append(source)
        if not self._paused:
            self._loop.watch(fd, READ, lambda _events: self._pump(source, _ROUNDS))

    def container_side(self) -> Stdio:
        """The container's ends of the FIFOs (and /dev/null or a pipe for its input)."""
        out, err = (os.open(os.path.join(self._directory, file), os.O_RDWR | os.O_CLOEXEC) for file in FIFOS.values())
        if not self._open_stdin:
            return Stdio(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), out, err)
        read, write = os.pipe2(os.O_CLOEXEC)
        self.type_into(write)
        return Stdio(read, out, err)

    def console(self, fd: int) -> None:
        """Read a console's master, and type into it when the container has an open input."""
        self.read_from("stdout", fd)
        if self._open_stdin:
            self.type_into(os.dup(fd))

    def resize(self, rows: int, columns: int) -> bool:
        """Of the console; False when there is none."""
        for source in self.sources:
            if os.isatty(source.fd):
                tty.resize(source.fd, rows, columns)
                return True
        return False

    def type_into(self, fd: int) -> None:
        """Pass clients' input on to `fd`, which is ours from now on. A console has no end of input to pass on."""
        self.inlet = Inlet(self._loop, fd, self._stdin_once and not os.isatty(fd))
        for early in self._early:
            self.inlet.join(early)
        self._early = []

    def unlaunch(self) -> None:
        """Before a launch: forget the ends of a process that was never started; clients who attached early stay."""
        self._close_sources()
        if self.inlet is not None:
            self._early += self.inlet.hand_on()
            self.inlet = None

    def attach(self, names: tuple[str, ...], stdin: bool) -> tuple[int | None, list[int]]:
        """(write end for input or None, read ends in the order of `names`): the client's, which the caller sends and closes."""
        outlets: dict[str, Outlet] = {}
        ends: list[int] = []
        attachment = Attachment(outlets)
        for name in names:
            read, write = os.pipe2(os.O_CLOEXEC)
            outlets[name] = self._outlet(attachment, write)
            ends.append(read)
        self.attachments.append(attachment)
        if not stdin or not self._open_stdin:
            return None, ends
        read, write = os.pipe2(os.O_CLOEXEC)
        if self.inlet is None:
            self._early.append(read)
        else:
            self.inlet.join(read)
        return write, ends

    def resume(self, dumped: dict[str, Any]) -> None:
        """Take over an attachment from before an upgrade (see Attachment.dump)."""
        outlets: dict[str, Outlet] = {}
        attachment = Attachment(outlets)
        self.attachments.append(attachment)
        for name, (fd, backlog) in dumped.items():
            outlets[name] = self._outlet(attachment, fd)
            outlets[name].feed(backlog.encode("latin-1"))

    def dump(self) -> dict[str, Any]:
        """For the handover: every descriptor, and what is under way. Unfinished lines are in their files already."""
        return {
            "sources": [[source.name, source.fd] for source in self.sources],
            "attachments": [attachment.dump() for attachment in self.attachments],
            "inlet": self.inlet.dump() if self.inlet else None,
            "early": self._early,
            "log": self.log.dump(),
        }

    def restore(self, dumped: dict[str, Any]) -> None:
        """The other half of `dump`, in the process after execv."""
        self.log.resume(dumped.get("log"))
        for attachment in dumped["attachments"]:
            self.resume(attachment)
        for name, fd in dumped["sources"]:
            self.read_from(name, fd)
        for fd in dumped["early"]:
            os.set_inheritable(fd, False)
            self._early.append(fd)
        if dumped["inlet"] is not None and dumped["inlet"]["fd"] >= 0:
            self.inlet = Inlet(self._loop, dumped["inlet"]["fd"], dumped["inlet"]["once"])
            self.inlet.resume(dumped["inlet"])

    def finish(self) -> None:
        """The container has ended: read what is left, end unfinished lines, let clients read to the end, close."""
        for source in self.sources:
            self._pump(source, _LAST_ROUNDS, last=True)
            self._emit(source, source.splitter.flush())
        for attachment in self.attachments:
            attachment.end()
        self.attachments = []
        self.log.end()
        self.close()

    def close(self) -> None:
        """Let go of everything at once."""
        self._close_sources()
        if self.inlet is not None:
            self.inlet.close()
            self.inlet = None
        for early in self._early:
            os.close(early)
        self._early = []
        for attachment in self.attachments:
            attachment.close()
        self.attachments = []
        self.log.close()

    def _close_sources(self) -> None:
        for source in self.sources:
            self._loop.forget(source.fd)
            os.close(source.fd)
            source.splitter.close()
        self.sources = []

    def _outlet(self, attachment: Attachment, fd: int) -> Outlet:
        return Outlet(self._loop, fd, self._ease, lambda: self._gone(attachment))

    def _pump(self, source: Source, rounds: int, last: bool = False) -> None:
        for _round in range(rounds):
            try:
                data = source.take(source.fd, _READ, self.log.mark())
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: every slave of the console is closed
                    raise
                data = b""
            if not data:
                self._loop.forget(source.fd)
                return
            self._emit(source, source.splitter.feed(data))
            for attachment in list(self.attachments):
                if source.name in attachment.outlets:
                    attachment.feed(source.name, data)
            if self._ease_off() and not last:
                return
            if len(data) < _LITTLE and not last:
                return  # most likely that was all; else the loop calls again

    def _recover(self, name: str, splitter: Splitter) -> None:
        """Do again what a kill cut short. Only a rotation within that very batch leaves it undone: rather short than twice."""
        if splitter.interrupted is None:
            return
        data, inode, size = splitter.interrupted
        splitter.interrupted = None
        lines = splitter.feed(data)
        if self.log.rewind(inode, size):
            self.log.write(name, lines)
        splitter.save()

    def _emit(self, source: Source, lines: list[bytes]) -> None:
        self.log.write(source.name, lines)
        source.splitter.save()

    def _full(self) -> bool:
        return self.log.full or any(attachment.full for attachment in self.attachments)

    def _ease_off(self) -> bool:
        if not self._paused and self._full():
            self._paused = True
            for source in self.sources:
                self._loop.forget(source.fd)
        return self._paused

    def _ease(self) -> None:
        if self._paused and not self._full():
            self._paused = False
            for source in self.sources:
                self._loop.watch(source.fd, READ, lambda _events, source=source: self._pump(source, _ROUNDS))  # type: ignore[misc]  # bound now

    def _gone(self, attachment: Attachment) -> None:
        if attachment in self.attachments and all(outlet.fd < 0 for outlet in attachment.outlets.values()):
            self.attachments.remove(attachment)
        self._ease()
