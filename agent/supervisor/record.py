"""What is on record of a container: `state.json`, `init.pid`, `exit`, and the plain data that clients see."""

from __future__ import annotations

import os
import time

from agent.supervisor import durable
from agent.supervisor.loop import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CREATED, RUNNING, PAUSED, RESTARTING, EXITED = "created", "running", "paused", "restarting", "exited"

# Every field with its first value. Times are unix ns, except kill_at and restart_at: time.monotonic seconds of this boot.
_FIELDS: dict[str, Any] = {
    "id": "",
    "state": CREATED,
    "pid": 0,  # 0 = no process
    "start_time": 0,  # clock ticks since boot, of pid
    "created_at": 0,
    "started_at": 0,
    "finished_at": 0,
    "exit_code": None,  # 128 + n after a signal; None while running or unknown
    "signal": None,
    "exit_known": False,
    "oom_killed": False,
    "restart_count": 0,
    "error": "",  # why the last start failed
    "log_dropped": 0,  # bytes of output that a full disk, or a log service slow or away, cost; of runs that have ended
    "log_fault": "",  # why the last of them were
    "health": None,  # {status, failing, log[]} or None without a check
    # private to the supervisor
    "boot_id": "",
    "backoff": 0.0,  # s waited before the last restart
    "restart_at": 0.0,
    "stopped": False,  # somebody asked for the end: no restart
    "kill_at": 0.0,  # a stop's grace ends
    "oom_seen": 0,  # the cgroup's counter when this run began
}
_PRIVATE = ("boot_id", "backoff", "restart_at", "stopped", "kill_at", "oom_seen")


class Record:
    """See _FIELDS. Written by supervisor.container only."""

    __slots__ = ("_directory", "undecided", *_FIELDS)

    if TYPE_CHECKING:
        id: str
        state: str
        pid: int
        start_time: int
        created_at: int
        started_at: int
        finished_at: int
        exit_code: int | None
        signal: int | None
        exit_known: bool
        oom_killed: bool
        restart_count: int
        error: str
        log_dropped: int
        log_fault: str
        health: dict[str, Any] | None
        boot_id: str
        backoff: float
        restart_at: float
        stopped: bool
        kill_at: float
        oom_seen: int

    def __init__(self, directory: str, values: dict[str, Any]) -> None:
        self._directory = directory
        self.undecided = False  # loaded with an exit whose consequences (restart or not) were never drawn
        for name, first in _FIELDS.items():
            setattr(self, name, values.get(name, first))

    @classmethod
    def load(cls, directory: str) -> Record | None:
        """From disk, with the exit file's truth laid over it; None when the container was never completely made."""
        values = durable.read(os.path.join(directory, "state.json"))
        if not isinstance(values, dict):
            return None
        record = cls(directory, values)
        record._apply_init(durable.read(os.path.join(directory, "init.pid")))
        ended = durable.read(os.path.join(directory, "exit"))
        if isinstance(ended, dict) and ended.get("pid") == record.pid and ended.get("start_time") == record.start_time:
            record.undecided = record.state in (RUNNING, PAUSED)
            record.ended(ended)
        return record

    @property
    def active(self) -> bool:
        """Whether it has, or waits to have, a started process."""
        return self.state in (RUNNING, PAUSED, RESTARTING)

    def save(self, *, sync: bool = False) -> None:
        """Write state.json. sync: only where a power loss must not forget it; exits and pids have their own files."""
        values = {name: getattr(self, name) for name in _FIELDS}
        self._store("state.json", values, sync)

    def public(self) -> dict[str, Any]:
        """What clients see."""
        return {name: getattr(self, name) for name in _FIELDS if name not in _PRIVATE}

    def begun(self, pid: int, start_time: int) -> None:
        """A process exists. It is not durable against power loss: then there is no process either."""
        self.pid, self.start_time, self.boot_id = pid, start_time, boot_id()
        init = {"pid": pid, "start_time": start_time, "boot_id": self.boot_id}
        self._store("init.pid", init, False)
        try:
            os.unlink(
                os.path.join(self._directory, "exit")
            )  # of the run before; it names that run's process, so the order is safe
        except FileNotFoundError:
            pass  # the first run

    def write_exit(self, code: int | None, signal: int | None, known: bool, *, keep: bool = True) -> None:
        """Store how the process ended, durably, and take it over. keep=False: its files are about to go, spare the disk."""
        ended = {
            "pid": self.pid,
            "start_time": self.start_time,
            "exit_code": code,
            "signal": signal,
            "exit_known": known,
            "oom_killed": self.oom_killed,
            "finished_at": time.time_ns(),
        }
        if keep:
            self._store("exit", ended, True)
        self.ended(ended)

    def ended(self, ended: dict[str, Any]) -> None:
        """Take over an exit file. The process is gone; the caller decides between exited and restarting."""
        for name in ("exit_code", "signal", "exit_known", "oom_killed", "finished_at"):
            setattr(self, name, ended[name])
        self.pid = 0
        self.kill_at = 0.0
        if self.state in (RUNNING, PAUSED):
            self.state = EXITED

    def note_drops(self, count: int, why: str) -> None:
        """Of a run that has ended."""
        if count:
            self.log_dropped += count
            self.log_fault = why

    def _store(self, name: str, values: dict[str, Any], sync: bool) -> None:
        """A disk that is full or broken is told, and life goes on in memory: the container did end, or start, all the same."""
        try:
            durable.write(os.path.join(self._directory, name), values, sync=sync)
        except OSError as error:
            report(error)

    def _apply_init(self, init: Any) -> None:
        if isinstance(init, dict):
            self.pid, self.start_time, self.boot_id = init["pid"], init["start_time"], init["boot_id"]


def boot_id() -> str:
    """This boot's random name: pids and start times of another boot mean nothing."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)
