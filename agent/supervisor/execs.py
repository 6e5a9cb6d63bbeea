"""Programs run inside a container beside its own: exec sessions, and the probes of health checks.

The client gets the pipes or the console itself. The supervisor keeps one writer of each pipe, and a slave of the console, until
the exit is stored: so whoever reads to the end of a pipe finds the exit code there. A client that dies closes the console: its
shell is hung up.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import WharfError
from agent.supervisor import durable
from agent.supervisor.loop import report
from agent.supervisor.processes import Exit, Process
from agent.supervisor.refusals import ContainerExists, InvalidRequest, NoSuchExec, NotRunning
from agent.supervisor.remains import exit_code_of
from agent.supervisor.streams import Stdio
from agent.sys import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.container import Container
    from agent.supervisor.launch import Init

KEEP = 64  # finished sessions remembered a container


class Exec:
    """One session. `held` are the descriptors that keep its streams open until the exit is stored."""

    def __init__(self, id_: str, pid: int, start_time: int, terminal: bool, held: list[int]) -> None:
        self.id = id_
        self.pid = pid
        self.start_time = start_time
        self.terminal = terminal
        self.held = held
        self.process: Process | None = None
        self.exit: Exit | None = None
        self.finished_at = 0
        self.waiters: list[Callable[[], None]] = []

    def public(self) -> dict[str, Any]:
        """What clients see, and what is on disk."""
        exit_ = self.exit
        return {
            "exec_id": self.id,
            "pid": self.pid,
            "start_time": self.start_time,
            "terminal": self.terminal,
            "running": exit_ is None,
            "exit_code": exit_.code if exit_ else None,
            "signal": exit_.signal if exit_ else None,
            "exit_known": bool(exit_ and exit_.known),
            "finished_at": self.finished_at,
        }

    def resize(self, rows: int, columns: int) -> None:
        """Of the session's terminal. Raises NotRunning when it has none (any more)."""
        if not self.terminal or not self.held:
            raise NotRunning(f"exec {self.id} has no terminal to resize")
        tty.resize(self.held[0], rows, columns)

    def let_go(self) -> None:
        for fd in self.held:
            os.close(fd)
        self.held = []


class Execs:
    """The sessions of one container, newest last."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._sessions: dict[str, Exec] = {}
        self._probes: set[Process] = set()

    def get(self, id_: str) -> Exec | None:
        return self._sessions.get(id_)

    def all(self) -> list[Exec]:
        return list(self._sessions.values())

    def run(self, id_: str, process: dict[str, Any], terminal: bool, stdin: bool) -> tuple[Exec, list[int]]:
        """Start a session; the client's descriptors, which the caller sends and closes: [console], or [stdin?, stdout, stderr].

        Raises NotRunning, ContainerPaused, or the runtime's refusal; a program that cannot be executed is remembered as a session
        that ended with 126 or 127.
        """
        self._container.need_running()
        _check_name(id_)
        if id_ in self._sessions:
            raise ContainerExists(f"exec {id_} exists already: choose another id")
        if terminal:
            init = self._launch(id_, {**process, "terminal": True}, None)
            return self._begun(id_, init, True, [tty.peer(init.console_fd)]), [init.console_fd]
        stdio, ends = _pipes(stdin)
        held = [os.dup(stdio.stdout), os.dup(stdio.stderr)]
        try:
            init = self._launch(id_, {**process, "terminal": False}, stdio)
        except BaseException:
            for fd in (*held, *ends):
                os.close(fd)
            raise
        finally:
            stdio.close()
        return self._begun(id_, init, False, held), ends

    def probe(self, process: dict[str, Any], stdio: Stdio, ended: Callable[[Exit], None]) -> Process:
        """Run a program that is nobody's session, with its descriptors; `ended` is called once. Raises as `run`."""
        self._container.need_running()
        init = self._call(process, stdio)

        def done(exit_: Exit) -> None:
            self._probes.discard(running)
            ended(exit_)

        running = self._container.context.processes.track(init.pid, init.pidfd, init.start_time, done)
        self._probes.add(running)
        return running

    def adopt(self, values: dict[str, Any], pidfd: int, held: list[int]) -> None:
        """A session that another supervisor began; pidfd -1: it has ended, as `values` say or unseen."""
        session = Exec(values["exec_id"], values["pid"], values["start_time"], values["terminal"], held)
        self._sessions[session.id] = session
        if not values["running"]:
            session.exit = Exit(values["exit_code"], values["signal"], values["exit_known"])
            session.finished_at = values["finished_at"]
        elif pidfd >= 0:
            self._track(session, pidfd)
        else:
            self._ended(session, Exit(None, None, known=False))

    def release(self) -> None:
        """Let go of everything; running sessions are killed with their cgroup."""
        for session in self._sessions.values():
            session.let_go()
            if session.process is not None:
                self._container.context.processes.release(session.process)
                session.exit = Exit(137, 9)  # with the cgroup
                for waiter in session.waiters:
                    waiter()
        for probe in list(self._probes):
            self._container.context.processes.release(probe)
        self._sessions = {}
        self._probes = set()

    def _launch(self, id_: str, process: dict[str, Any], stdio: Stdio | None) -> Init:
        try:
            return self._call(process, stdio)
        except WharfError as error:
            if error.code == "exec_failed":
                session = Exec(id_, 0, 0, stdio is None, [])
                session.exit = Exit(exit_code_of(error), None)
                session.finished_at = time.time_ns()
                self._sessions[id_] = session
            raise

    def _call(self, process: dict[str, Any], stdio: Stdio | None) -> Init:
        container = self._container
        if container.process is None:
            raise NotRunning(f"container {container.id} is not running: start it first")
        spec = container.spec.read()
        process.setdefault("oomScoreAdj", container.spec.oom_score_adj)  # unset means inherited, and ours is low
        return container.context.runtime.exec(container.id, spec["config"], spec["rootfs"], container.process.pid, process, stdio)

    def _begun(self, id_: str, init: Init, terminal: bool, held: list[int]) -> Exec:
        session = Exec(id_, init.pid, init.start_time, terminal, held)
        self._forget_oldest()
        self._sessions[id_] = session
        self._track(session, init.pidfd)
        self._save(session)
        return session

    def _track(self, session: Exec, pidfd: int) -> None:
        processes = self._container.context.processes
        session.process = processes.track(session.pid, pidfd, session.start_time, lambda exit_: self._ended(session, exit_))

    def _ended(self, session: Exec, exit_: Exit) -> None:
        session.exit = exit_
        session.process = None
        session.finished_at = time.time_ns()
        self._save(session)
        session.let_go()
        self._container.publish("exec_exit", exec=session.public())
        waiters, session.waiters = session.waiters, []
        for waiter in waiters:
            waiter()

    def _save(self, session: Exec) -> None:
        try:
            os.makedirs(os.path.join(self._container.directory, "exec"), 0o700, exist_ok=True)
            durable.write(self._path(session.id), session.public(), sync=False)
        except OSError as error:
            report(error)  # a full disk: known until the next upgrade only

    def _path(self, id_: str) -> str:
        return os.path.join(self._container.directory, "exec", id_)

    def _forget_oldest(self) -> None:
        finished = [session.id for session in self._sessions.values() if session.exit is not None]
        for id_ in finished[: max(0, len(finished) - KEEP + 1)]:
            del self._sessions[id_]
            try:
                os.unlink(self._path(id_))
            except FileNotFoundError:
                pass  # one that never started has no file


def find(containers: dict[str, Container], id_: str) -> tuple[Container, Exec]:
    """A session by its id. Raises NoSuchExec."""
    for container in containers.values():
        session = container.execs.get(id_)
        if session is not None:
            return container, session
    raise NoSuchExec(f"no exec session {id_}")


def _pipes(stdin: bool) -> tuple[Stdio, list[int]]:
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    if not stdin:
        return Stdio(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), out_write, err_write), [out_read, err_read]
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    return Stdio(in_read, out_write, err_write), [in_write, out_read, err_read]


def _check_name(id_: str) -> None:
    if not id_ or len(id_) > 128 or not id_.isascii() or not id_.replace("-", "").replace("_", "").isalnum():
        raise InvalidRequest(f"exec id {id_!r}: use up to 128 letters, digits, - and _")
