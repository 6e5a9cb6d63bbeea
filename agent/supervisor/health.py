"""Health checks with Docker's semantics (Engine API, HealthConfig; durations in nanoseconds).

The first probe comes one interval after the start, the next one interval after the end of the one before. Within the start period
a failure does not count and probes come every start interval, until the first success. `retries` failures in a row: unhealthy.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import InvalidInput, WharfError
from agent.supervisor.loop import READ, Timer
from agent.supervisor.processes import Exit, Process
from agent.supervisor.streams import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.container import Container

KEEP = 5  # results
OUTPUT = 4096  # bytes of each
_DEFAULTS = {"Interval": 30.0, "Timeout": 30.0, "StartPeriod": 0.0, "StartInterval": 5.0}  # s
_RETRIES = 3


class InvalidHealthCheck(InvalidInput):
    """The health check cannot work."""

    code = "invalid_health_check"


def validate(check: dict[str, Any]) -> None:
    """Raises InvalidHealthCheck. Test: ["NONE"], ["CMD", argument…] or ["CMD-SHELL", line]."""
    test = check.get("Test") or []
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        raise InvalidHealthCheck("health check Test has to be a list of strings")
    if test and (test[0] not in ("NONE", "CMD", "CMD-SHELL") or (test[0] != "NONE" and len(test) < 2)):
        raise InvalidHealthCheck(f'health check Test {test!r}: use ["NONE"], ["CMD", …] or ["CMD-SHELL", "…"]')
    for key in (*_DEFAULTS, "Retries"):
        value = check.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidHealthCheck(f"health check {key} is {value!r}: it has to be a whole number of at least 0")


class HealthCheck:
    """Probes one container, and keeps `record.health` = {status, failing, log: [{start, end, exit_code, output}]} (unix ns)."""

    def __init__(self, container: Container, check: dict[str, Any]) -> None:
        self._container = container
        test = check["Test"]
        self._args = test[1:] if test[0] == "CMD" else ["/bin/sh", "-c", test[1]]
        self._seconds = {key: (check.get(key) or 0) / 1e9 or default for key, default in _DEFAULTS.items()}
        self._retries = check.get("Retries") or _RETRIES
        self._timer: Timer | None = None
        self._probe: Probe | None = None

    @classmethod
    def of(cls, container: Container) -> HealthCheck | None:
        """None when the container has no check."""
        check = container.spec.health
        test = check.get("Test") or ["NONE"]
        return None if test[0] == "NONE" else cls(container, check)

    def reset(self) -> None:
        """A new run starts."""
        self._container.record.health = {"status": "starting", "failing": 0, "log": []}

    def begin(self) -> None:
        """Go on probing from what is on record: also after an upgrade or a crash of the supervisor."""
        if self._container.record.health is None:
            self.reset()
        log = self._health["log"]
        last = log[-1]["end"] if log else self._container.record.started_at
        self._schedule(self._interval() - (time.time_ns() - last) / 1e9)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probe is not None:
            self._probe.abandon()
            self._probe = None

    @property
    def _health(self) -> dict[str, Any]:
        return self._container.record.health or {}  # never None here: `begin` sees to it

    def _starting(self) -> bool:
        ran = (time.time_ns() - self._container.record.started_at) / 1e9
        return self._health["status"] == "starting" and ran < self._seconds["StartPeriod"]

    def _interval(self) -> float:
        return self._seconds["StartInterval" if self._starting() else "Interval"]

    def _schedule(self, seconds: float) -> None:
        self._timer = self._container.context.loop.later(max(0.0, seconds), self._run)

    def _run(self) -> None:
        self._timer = None
        if self._container.record.state != "running":  # paused: Docker does not probe either
            self._schedule(self._interval())
            return
        try:
            base = self._container.spec.read()["config"]["process"]
            self._probe = Probe(
                self._container, {**base, "args": self._args, "terminal": False}, self._seconds["Timeout"], self._done
            )
        except (WharfError, OSError) as error:
            self._done(time.time_ns(), -1, str(error))

    def _done(self, start: int, exit_code: int, output: str) -> None:
        self._probe = None
        health = self._health
        before = health["status"]
        starting = self._starting()
        health["log"] = [
            *health["log"][1 - KEEP :],
            {"start": start, "end": time.time_ns(), "exit_code": exit_code, "output": output},
        ]
        if exit_code == 0:
            health["failing"], health["status"] = 0, "healthy"
        elif not starting:
            health["failing"] += 1
            if health["failing"] >= self._retries:
                health["status"] = "unhealthy"
        self._container.record.save()
        if health["status"] != before:
            self._container.publish("health")
        self._schedule(self._interval())


class Probe:
    """One run of the check: its output, its deadline."""

    def __init__(
        self, container: Container, process: dict[str, Any], timeout: float, done: Callable[[int, int, str], None]
    ) -> None:
        self._loop = container.context.loop
        self._done = done
        self._timeout = timeout
        self._start = time.time_ns()
        self._output = bytearray()
        self._late = False
        self._abandoned = False
        self._fd, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)  # the probe's own end: pipe2 made two open files, this does not touch ours
        stdio = Stdio(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), write, write)
        try:
            self._process: Process = container.execs.probe(process, stdio, self._ended)
        except BaseException:
            os.close(self._fd)
            raise
        finally:
            stdio.close()
        self._loop.watch(self._fd, READ, self._readable)
        self._timer = self._loop.later(timeout, self._expire)

    def abandon(self) -> None:
        """Nobody wants the result any more."""
        self._abandoned = True
        self._process.send(9)

    def _readable(self, _events: int) -> None:
        self._read()

    def _read(self) -> bool:
        """Read once, keep the first OUTPUT bytes; False when there is nothing (more)."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        self._output += data[: OUTPUT - len(self._output)]
        if not data:
            self._loop.forget(self._fd)
        return bool(data)

    def _expire(self) -> None:
        self._late = True
        self._process.send(9)

    def _ended(self, exit_: Exit) -> None:
        self._timer.cancel()
        for _round in range(16):
            if not self._read():
                break
        self._loop.forget(self._fd)
        os.close(self._fd)
        if self._abandoned:
            return
        if self._late:
            self._done(self._start, -1, f"health check exceeded its timeout of {self._timeout:g} s")
        else:
            self._done(self._start, exit_.code if exit_.code is not None else -1, self._output.decode("utf-8", "replace"))
