"""What is on record of a container: `state.json` from its creation, the ledger since; and the plain data that clients see."""

from __future__ import annotations

import os
import time

from agent.supervisor import durable
from agent.supervisor.loop import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.supervisor.ledger import Ledger

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
    "making": "",  # the boot id while it is being created: who finds that in the same boot removes it, for nobody was told of it
    "backoff": 0.0,  # s waited before the last restart
    "restart_at": 0.0,
    "stopped": False,  # somebody asked for the end: no restart
    "kill_at": 0.0,  # a stop's grace ends
    "oom_seen": 0,  # the cgroup's counter when this run began
}
_PRIVATE = ("boot_id", "making", "backoff", "restart_at", "stopped", "kill_at", "oom_seen")


class Record:
    """See _FIELDS. Written by supervisor.container only."""

    __slots__ = ("_directory", "_ledger", "undecided", *_FIELDS)

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
        making: str
        backoff: float
        restart_at: float
        stopped: bool
        kill_at: float
        oom_seen: int

    def __init__(self, directory: str, values: dict[str, Any], ledger: Ledger) -> None:
        self._directory = directory
        self._ledger = ledger
        self.undecided = False  # loaded with an exit whose consequences (restart or not) were never drawn
        for name, first in _FIELDS.items():
            setattr(self, name, values.get(name, first))

    @classmethod
    def load(cls, directory: str, ledger: Ledger, noted: dict[str, Any] | None) -> Record | None:
        """From disk. `noted`: the ledger's newest values of that id. None when the container was never completely made."""
        values = durable.read(os.path.join(directory, "state.json"))
        if not isinstance(values, dict):
            return None
        if noted is not None and noted.get("created_at") == values.get("created_at"):  # else of another one before it
            return cls(directory, noted, ledger)
        record = cls(directory, values, ledger)
        record._take_files()
        return record

    @property
    def active(self) -> bool:
        """Whether it has, or waits to have, a started process."""
        return self.state in (RUNNING, PAUSED, RESTARTING)

    def save(self, *, sync: bool = False) -> None:
        """Note all values. sync: it is being created; its state.json, durable with the directory, says that it was made."""
        if sync:
            self._store({name: getattr(self, name) for name in _FIELDS})
        else:
            self._ledger.append(self.id, self._values())

    def enlist(self) -> None:
        """The same, durably, with the ledger's next commit."""
        self._ledger.enlist(self.id, self._values())

    def public(self) -> dict[str, Any]:
        """What clients see."""
        return {name: getattr(self, name) for name in _FIELDS if name not in _PRIVATE}

    def begun(self, pid: int, start_time: int) -> None:
        """A process exists. It need not be durable against power loss: then there is no process either."""
        self.pid, self.start_time, self.boot_id = pid, start_time, boot_id()
        mark, self.making = self.making, ""
        self.save()
        if mark:
            self._unmark(mark.encode())

    def _unmark(self, mark: bytes) -> None:
        """It is made: in place, so that neither a full disk nor a lost ledger makes anybody take it for a half-made one."""
        try:
            fd = os.open(os.path.join(self._directory, "state.json"), os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(fd, b" " * len(mark), durable.read_all(fd).index(mark))
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            report(error)

    def write_exit(self, code: int | None, signal: int | None, known: bool) -> None:
        """Note how a run ended, durably at once."""
        self.ended(code, signal, known)
        self.enlist()
        self._ledger.commit()

    def ended(self, code: int | None, signal: int | None, known: bool) -> None:
        """The process is gone; the caller decides between exited and restarting."""
        self.exit_code, self.signal, self.exit_known, self.finished_at = code, signal, known, time.time_ns()
        self._over()

    def note_drops(self, count: int, why: str) -> None:
        """Of a run that has ended."""
        if count:
            self.log_dropped += count
            self.log_fault = why

    def _over(self) -> None:
        self.pid = 0
        self.kill_at = 0.0
        if self.state in (RUNNING, PAUSED):
            self.state = EXITED

    def _values(self) -> dict[str, Any]:
        """For the ledger: what is not as it first was, without the id."""
        return {name: value for name, first in _FIELDS.items() if (value := getattr(self, name)) != first and name != "id"}

    def _store(self, values: dict[str, Any]) -> None:
        """A disk that is full or broken is told, and life goes on in memory: the container was made all the same."""
        try:
            durable.write(os.path.join(self._directory, "state.json"), values)
        except OSError as error:
            report(error)

    def _take_files(self) -> None:
        """Of a container that no supervisor with a ledger has changed yet: `init.pid` and `exit`, laid over state.json."""
        init, ended = (durable.read_unsynced(os.path.join(self._directory, name)) for name in ("init.pid", "exit"))
        if isinstance(init, dict):
            self.pid, self.start_time, self.boot_id = init["pid"], init["start_time"], init["boot_id"]
        if isinstance(ended, dict) and ended.get("pid") == self.pid and ended.get("start_time") == self.start_time:
            self.undecided = self.state in (RUNNING, PAUSED)
            for name in ("exit_code", "signal", "exit_known", "oom_killed", "finished_at"):
                setattr(self, name, ended[name])
            self._over()


def boot_id() -> str:
    """This boot's random name: pids and start times of another boot mean nothing."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)
