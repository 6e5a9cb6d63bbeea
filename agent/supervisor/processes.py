"""Processes we answer for: their pidfds in the loop, their exits, and the strays that a subreaper inherits."""

from __future__ import annotations

import os

from agent.supervisor.loop import READ, Loop, guard, report
from agent.sys.pidfd import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    Rest = Callable[[], None]
    Ended = Callable[["Exit"], Rest | None]
else:
    import _signal as signal

_WALL = 0x40000000  # __WALL: also children whose exit signal is not SIGCHLD (clone3 lets one choose)
_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL
_REAP = os.WEXITED | os.WNOHANG | _WALL
_RETRY = 0.05  # s between two looks at an exit that the kernel does not tell yet
_PATIENCE = 2.0  # s until such an exit is called unknown


class Exit:
    """How a process ended. `known` false: nobody saw it, and nothing is invented."""

    __slots__ = ("code", "known", "signal")

    def __init__(self, code: int | None, signal_number: int | None, known: bool = True) -> None:
        self.code = code
        self.signal = signal_number
        self.known = known

    @classmethod
    def of_status(cls, status: int) -> Exit:
        """Of a wait status; death by signal n is exit code 128 + n, as shells and Docker count."""
        if os.WIFSIGNALED(status):
            return cls(128 + os.WTERMSIG(status), os.WTERMSIG(status))
        return cls(os.waitstatus_to_exitcode(status), None)


UNKNOWN = Exit(None, None, known=False)


class Process:
    """One process. `ended` is called once, before the process is reaped; what it returns is called when the exits that it and
    others of the same round of the loop enlisted are durable, and still before the reaping."""

    __slots__ = ("ended", "looks", "pid", "pidfd", "start_time")

    def __init__(self, pid: int, pidfd: int, start_time: int, ended: Ended) -> None:
        self.pid = pid
        self.pidfd = pidfd  # -1 once closed
        self.start_time = start_time
        self.ended = ended
        self.looks = 0

    def send(self, number: int) -> bool:
        """Send a signal; False when the process has ended."""
        if self.pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True


class Processes:
    """The table. `reap` must run on every SIGCHLD. `commit` makes durable what the ends of one round enlisted.

    All that is found ended in a round of the loop is dealt with together, at the round's end: each `ended`, one `commit`, what
    each of them returned, the reaping.
    """

    def __init__(self, loop: Loop, commit: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._commit = commit
        self._by_pid: dict[int, Process] = {}
        self._group: list[tuple[Process | None, Callable[[], Rest | None]]] = []
        self._expected = False
        self.on_collected: dict[int, Callable[[], None]] = {}  # called once, when a stray of that pid has been reaped

    def track(self, pid: int, pidfd: int, start_time: int, ended: Ended) -> Process:
        """Watch a process; the pidfd is ours from now on."""
        os.set_inheritable(pidfd, False)
        process = Process(pid, pidfd, start_time, ended)
        self._by_pid[pid] = process
        self._loop.watch(pidfd, READ, lambda _events: self._look(process))
        return process

    def release(self, process: Process) -> None:
        """Stop watching; the process itself is left alone."""
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]
        if process.pidfd >= 0:
            self._loop.forget(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1

    def reap(self) -> None:
        """Deal with every zombie child at the end of this round: ours are known by their pidfds, strays are only collected."""
        if not self._expected:
            self._expected = True
            self._loop.soon(self._settle)

    def conclude(self, ended: Callable[[], Rest | None]) -> None:
        """As with an `ended`, for one that has no process any more."""
        self._group.append((None, ended))
        self.reap()

    def _look(self, process: Process) -> None:
        """The pidfd is readable: ended, and perhaps not our child."""
        try:
            found = os.waitid(os.P_PIDFD, process.pidfd, _PEEK)
        except ChildProcessError:
            self._look_at_foreign(process)
            return
        if found is not None:
            self._finish(process, _exit_of(found))

    def _look_at_foreign(self, process: Process) -> None:
        status = foreign_status(process.pidfd, process.pid, process.start_time)
        if status is not None:
            self._finish(process, Exit.of_status(status))
        elif process.looks * _RETRY >= _PATIENCE:
            self._finish(process, UNKNOWN)
        else:  # level-triggered epoll would spin
            process.looks += 1
            self._loop.forget(process.pidfd)
            self._loop.later(_RETRY, lambda: self._look_at_foreign(process) if process.pidfd >= 0 else None)

    def _finish(self, process: Process, exit_: Exit) -> None:
        self._group.append((process, lambda: process.ended(exit_)))
        self.reap()

    def _settle(self) -> None:
        self._expected = False
        group, self._group = self._group, []
        rests: list[Rest] = []
        for process, ended in group:
            if process is None or process.pidfd >= 0:  # else released in this very round
                try:
                    rest = ended()
                except Exception as error:  # noqa: BLE001  # one container's fault must not keep the others' ends from being told
                    report(error)
                    continue
                if rest is not None:
                    rests.append(rest)
        if self._commit is not None:
            guard(self._commit)
        for rest in rests:
            guard(rest)
        for process, _ended in group:
            if process is not None and process.pidfd >= 0:
                _collect(os.P_PIDFD, process.pidfd)
                self.release(process)
        self._reap_strays()

    def _reap_strays(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, _PEEK)
            except ChildProcessError:
                return
            if found is None or found.si_pid in self._by_pid:
                return  # one of ours, ended just now: its round comes, and with it another look
            _collect(os.P_PID, found.si_pid)
            call = self.on_collected.pop(found.si_pid, None)
            if call is not None:
                call()


def foreign_status(pidfd: int, pid: int, start_time: int) -> int | None:
    """Wait status of an ended process of another parent: from the pidfd once reaped, from /proc while it is a zombie."""
    status = exit_status(pidfd)
    if status is not None:
        return status
    fields = stat_fields(pid)
    if fields is None or fields[0] != b"Z" or int(fields[19]) != start_time:
        return None
    return int(fields[49])


def stat_fields(pid: int) -> list[bytes] | None:
    """Fields of /proc/<pid>/stat from the state on (proc(5) field 3 is [0]); None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        data = os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return data[data.rindex(b")") + 2 :].split()  # the name before may contain anything


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None when there is no such process. A zombie still has one."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def _exit_of(found: os.waitid_result) -> Exit:
    if found.si_code == os.CLD_EXITED:
        return Exit(found.si_status, None)
    return Exit(128 + found.si_status, found.si_status)


def _collect(kind: int, which: int) -> None:
    try:
        os.waitid(kind, which, _REAP)
    except ChildProcessError:
        pass  # reaped by its real parent
