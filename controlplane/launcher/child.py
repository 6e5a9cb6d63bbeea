"""One child of the launcher: start, readiness, signs of life, back-off, end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agent.protocol.errors import Unavailable

DEATHS = 5  # within
WINDOW = 60.0  # seconds, and ready in none of these lives: the launcher gives up
SILENCE = 60.0  # seconds without a sign of life of a child that sends them
GRACE = 10.0  # seconds from SIGTERM to SIGKILL
LOG_LIMIT = 10 << 20  # bytes; an older log is moved to .1 at the next start of the child


class GivenUp(Unavailable):
    """A child died again and again before it was ready; the detail names it and shows the end of its log."""

    code = "child_given_up"


class Child:
    """A program that is kept alive.

    `probe()`, when given, tells whether the child is ready; otherwise it says so itself on NOTIFY_SOCKET (sd_notify), and goes on
    sending WATCHDOG=1. With neither it is ready once started.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        log: Path,
        *,
        cwd: Path,
        probe: Callable[[], bool] | None = None,
        notify: Path | None = None,
        owner: tuple[int, int] | None = None,
        umask: int = 0o077,
    ) -> None:
        self.name = name
        self.command = command
        self.environment = environment
        self.log = log
        self.cwd = cwd
        self.probe = probe
        self.umask = umask
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.ready = False
        self.heard_at = 0.0
        self.sends_life = False
        self.deaths: deque[tuple[float, bool]] = deque(maxlen=DEATHS)  # when, and whether it was seen ready
        self.restart_at = 0.0
        self.listener = self._listen(notify, owner) if notify is not None else None

    def _listen(self, path: Path, owner: tuple[int, int] | None) -> socket.socket:
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        listener.bind(str(path))
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, *owner)
        self.environment = {**self.environment, "NOTIFY_SOCKET": str(path)}
        return listener

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Spawns it in a session of its own, so that a Ctrl-C on the terminal reaches only the launcher."""
        self._turn_log()
        with self.log.open("ab", buffering=0) as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=self.umask,
            )
        self.pidfd = os.pidfd_open(self.process.pid)
        self.ready = self.probe is None and self.listener is None
        self.sends_life = False
        self.heard_at = time.monotonic()

    def _turn_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                self.log.replace(self.log.with_suffix(".log.1"))

    def look(self) -> None:
        """Readiness and signs of life; kills a child that went silent, which `reap` then restarts."""
        if not self.running:
            return
        if self.listener is not None:
            self._hear()
        elif not self.ready and self.probe is not None:
            self.ready = self.probe()
        if self.sends_life and time.monotonic() - self.heard_at > SILENCE:
            self.signal(signal.SIGKILL)

    def _hear(self) -> None:
        assert self.listener is not None  # noqa: S101  # look() has asked
        with contextlib.suppress(BlockingIOError):
            while True:
                words = self.listener.recv(4096).decode("utf-8", "replace").split("\n")
                self.heard_at = time.monotonic()
                self.ready = self.ready or "READY=1" in words
                self.sends_life = self.sends_life or "WATCHDOG=1" in words

    def reap(self) -> int | None:
        """The exit code when the child has just ended (negative: by that signal), with its restart planned. Raises GivenUp."""
        if self.process is None or self.process.poll() is None:
            return None
        if self.listener is not None:
            self._hear()  # its last words may be that it is ready
        code, now = self.process.returncode, time.monotonic()
        proven = self.ready and (self.listener is not None or self.probe is not None)
        self.deaths.append((now, proven))
        self._forget()
        recent = [ready for at, ready in self.deaths if now - at < WINDOW]
        if len(recent) == DEATHS and not any(recent):
            raise GivenUp(
                f"{self.name} died {DEATHS} times within {WINDOW:.0f} seconds and was never ready, the last time {how(code)}.\n"
                f"{self.tail()}"
            )
        self.restart_at = now + 0.2 * 2 ** (len(recent) - 1)
        return code

    def _forget(self) -> None:
        self.process = None
        os.close(self.pidfd)
        self.pidfd = -1
        self.ready = False

    def tail(self, lines: int = 15) -> str:
        """The end of its log, indented."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 8192))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """To the whole group: a worker's own children included."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """SIGTERM to the program, GRACE seconds, SIGKILL to its group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        self._forget()


def how(code: int) -> str:
    """An exit code in words."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
