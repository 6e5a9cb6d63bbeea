"""`wharf-runtime run` and `exec` done here: containers of the command line, which are nobody's in the roster.

    {"op": "bundle_run", "root", "id", "bundle", "config", "keep", "pivot"}  + descriptors 0, 1, 2
    {"op": "bundle_exec", "root", "id", "words", "values", "process"}        + descriptors 0, 1, 2

Answered twice: with the pid, a pidfd and perhaps a terminal's master once the program runs, and {"exit_code"} when it has ended.
State is the command line's own directory, so that its other commands find the container; limits that config.json leaves out are
the caller's, as if it had forked. `not_here` means: do it yourself.
"""

from __future__ import annotations

import os
import resource

from agent.runtime import bundle, container
from agent.runtime import exec as runtime_exec
from agent.runtime.bundle import Bundle
from agent.runtime.cgroup import Cgroup
from agent.runtime.container import Stdio
from agent.runtime.state import StateDirectory
from agent.supervisor import jsontext
from agent.supervisor.loop import report
from agent.supervisor.refusals import InvalidRequest, NotHere, NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.container import Init
    from agent.runtime.plan import Plan
    from agent.runtime.processplan import ProcessPlan
    from agent.supervisor.connection import Connection
    from agent.supervisor.loop import Loop
    from agent.supervisor.operations import Call
    from agent.supervisor.processes import Exit, Process, Processes

_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time")
_LIMITS = 16  # RLIM_NLIMITS
_PAUSE, _ATTEMPTS = 0.02, 1500  # s between two attempts to remove a cgroup that the kernel still holds


class Guest:
    """A process of the command line. `directory` None: an exec, which leaves nothing behind."""

    __slots__ = ("cgroup_path", "connection", "directory", "keep", "number", "process")

    def __init__(
        self, connection: Connection | None, number: Any, directory: StateDirectory | None, cgroup: str, keep: bool
    ) -> None:
        self.connection = connection
        self.number = number
        self.directory = directory
        self.cgroup_path = cgroup
        self.keep = keep
        self.process: Process | None = None


class Bundles:
    """Those that run, and the cgroups of those that ran."""

    def __init__(self, loop: Loop, processes: Processes) -> None:
        self._loop = loop
        self._processes = processes
        self._guests: list[Guest] = []
        self._leaving: set[str] = set()

    def run(self, call: Call) -> None:
        _same_place(call.connection.peer_pid())
        found = Bundle(call.get("bundle", str), call.get("config", str, ""), jsontext.loads)
        _refuse_waiting(found.config)
        directory = StateDirectory(call.get("root", str), call.get("id", str))
        plan = found.plan(directory.id)
        _as_if_forked(plan.process, call.connection.peer_pid())
        if plan.cgroup_path in self._leaving:
            Cgroup(plan.cgroup_path).remove()  # or its sweep could take the new one's
            self._leaving.discard(plan.cgroup_path)
        directory.make(found.text)
        init, warning = bundle.create(
            directory, plan, _stdio(call, found.terminal), jsontext.dumps, pivot=call.get("pivot", bool, True), look_up=True
        )
        try:
            init.start()
        except BaseException:
            container.destroy(init)
            directory.remove()
            raise
        guest = Guest(call.connection, call.number, directory, plan.cgroup_path, call.get("keep", bool, False))
        self._begun(call, guest, init, warning)

    def exec(self, call: Call) -> None:
        _same_place(call.connection.peer_pid())
        directory = StateDirectory(call.get("root", str), call.get("id", str))
        state = directory.state(jsontext.loads)
        plan = directory.plan(jsontext.loads)
        _refuse_waiting(plan.config)
        process, below, ignore_paused = _exec_process(call, plan)
        if not directory.alive():
            raise NotRunning("cannot exec in a stopped container")
        if not ignore_paused and directory.cgroup().frozen():
            raise NotRunning("cannot exec in a paused container (use --ignore-paused to override)")
        init = runtime_exec.exec_in(
            plan,
            state["pid"],
            _like_caller(process, call.connection.peer_pid()),
            _stdio(call, bool(process.get("terminal"))),
            start_time=state["start_time"],
            ignore_paused=True,
            below=below,
        )
        self._begun(call, Guest(call.connection, call.number, None, "", True), init, "")

    def dump(self, connections: set[int], fds: list[int]) -> list[list[Any]]:
        """For the handover; descriptors are added to `fds`."""
        dumped: list[list[Any]] = []
        for guest in self._guests:
            process = guest.process
            if process is None:
                continue
            fd = guest.connection.fileno() if guest.connection is not None and guest.connection.alive else -1
            where = [os.path.dirname(guest.directory.path), guest.directory.id] if guest.directory else None
            what = [process.pid, process.pidfd, process.start_time, where, guest.cgroup_path, guest.keep]
            dumped.append([fd if fd in connections else -1, guest.number, *what])
            fds.append(process.pidfd)
        return dumped

    def restore(self, dumped: list[list[Any]], connections: dict[int, Connection]) -> None:
        """The other half of `dump`."""
        for fd, number, pid, pidfd, start_time, where, cgroup, keep in dumped:
            directory = StateDirectory(*where) if where else None
            self._track(Guest(connections.get(fd), number, directory, cgroup, keep), pid, pidfd, start_time)

    def _begun(self, call: Call, guest: Guest, init: Init, warning: str) -> None:
        fds = [init.pidfd, *([init.console_fd] if init.console_fd >= 0 else [])]
        call.answer({"pid": init.pid, "terminal": init.console_fd >= 0, "warning": warning}, fds)
        if init.console_fd >= 0:
            os.close(init.console_fd)
        self._track(guest, init.pid, init.pidfd, init.start_time)

    def _track(self, guest: Guest, pid: int, pidfd: int, start_time: int) -> None:
        self._guests.append(guest)
        guest.process = self._processes.track(pid, pidfd, start_time, lambda exit_: self._ended(guest, exit_))

    def _ended(self, guest: Guest, exit_: Exit) -> None:
        """Whoever waits is told once the id is free again; the cgroup goes afterwards, which may take the kernel a while."""
        self._guests.remove(guest)
        waits = guest.connection is not None and guest.connection.alive
        if guest.directory is not None and not guest.keep and waits:
            try:
                guest.directory.remove()
            except OSError as error:
                report(error)  # deleted by another command meanwhile
            self._leaving.add(guest.cgroup_path)
            self._loop.later(0, lambda: self._sweep(guest.cgroup_path, 0))
        if guest.connection is not None:
            guest.connection.answer(guest.number, {"exit_code": exit_.code if exit_.known else None})

    def _sweep(self, path: str, attempt: int) -> None:
        if path not in self._leaving:
            return
        cgroup = Cgroup(path)
        try:
            if cgroup.exists():
                cgroup.kill()
            gone = cgroup.remove(seconds=0.0)
        except OSError as error:
            report(error)
            gone = False
        if gone or attempt >= _ATTEMPTS:
            self._leaving.discard(path)
        else:
            self._loop.later(_PAUSE, lambda: self._sweep(path, attempt + 1))


def _same_place(pid: int) -> None:
    """What the caller means by a path, a pid or a network has to be what we mean. Raises NotHere."""
    try:
        for name in _NAMESPACES:
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                raise NotHere(f"the caller has another {name} namespace than the supervisor")
        theirs, ours = os.stat(f"/proc/{pid}/root"), os.stat("/")
    except OSError as error:
        raise NotHere(f"the caller's namespaces cannot be seen: {error}") from error
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
        raise NotHere("the caller has another root directory than the supervisor")


def _refuse_waiting(config: dict[str, Any]) -> None:
    """Hooks and listeners run for as long as they like: everybody else would wait. Raises NotHere."""
    linux = config.get("linux")
    seccomp = linux.get("seccomp") if isinstance(linux, dict) else None
    if config.get("hooks") or (isinstance(seccomp, dict) and seccomp.get("listenerPath")):
        raise NotHere("hooks and seccomp listeners are the command line's own to wait for")
    if isinstance(linux, dict) and (linux.get("intelRdt") is not None or linux.get("netDevices")):
        raise NotHere("intelRdt and netDevices are the command line's own to set up and undo")


def _as_if_forked(plan: ProcessPlan, pid: int) -> None:
    """Limits, OOM score and umask that config.json leaves out are inherited, and not ours to give."""
    named = {limit for limit, _, _ in plan.rlimits}
    for limit in range(_LIMITS):
        if limit not in named:
            soft, hard = resource.prlimit(pid, limit)
            plan.rlimits.append((limit, soft % (1 << 64), hard % (1 << 64)))  # RLIM_INFINITY is -1 to Python
    if plan.oom_score_adj is None:
        plan.oom_score_adj = _oom_score(pid)
    if plan.umask is None:
        plan.umask = _umask(pid)


def _like_caller(process: dict[str, Any], pid: int) -> dict[str, Any]:
    """The same of an exec, as an OCI process object."""
    from agent.runtime.spec import RLIMITS

    limits = list(process.get("rlimits") or ())
    named = {limit.get("type") for limit in limits}
    for name, number in RLIMITS.items():
        if name not in named:
            soft, hard = resource.prlimit(pid, number)
            limits.append({"type": name, "soft": soft % (1 << 64), "hard": hard % (1 << 64)})
    user = {**(process.get("user") or {})}
    if user.get("umask") is None:
        user["umask"] = _umask(pid)
    return {"oomScoreAdj": _oom_score(pid), **process, "rlimits": limits, "user": user}


def _oom_score(pid: int) -> int:
    return int(_read(f"/proc/{pid}/oom_score_adj"))


def _umask(pid: int) -> int:
    """proc_pid_status(5)."""
    return int(_read(f"/proc/{pid}/status").partition(b"\nUmask:")[2].split()[0], 8)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _stdio(call: Call, terminal: bool) -> Stdio:
    if len(call.fds) != 3:
        raise InvalidRequest("operations on bundles come with the descriptors that become 0, 1 and 2")
    stdin, stdout, stderr = call.fds
    stdio = Stdio(stdin, stdout, stderr, terminal)
    stdio.plain_newlines = True
    return stdio


def _exec_process(call: Call, plan: Plan) -> tuple[dict[str, Any], dict[str, str], bool]:
    """(process object, cgroups below the container's, whether a paused container will do)."""
    from agent.runtime.cli import merge  # 60 kB of the command line, for nodes where it is used
    from agent.runtime.cli.arguments import Options

    options = Options("wharf-runtime", "exec", call.get("words", list), call.get("values", dict))
    path = call.get("process", str, "")
    process = merge.read(path, jsontext.loads) if path else merge.process(plan.config["process"], options)
    return process, merge.below(options.many("cgroup"), plan.cgroup_path), options.flag("ignore-paused")
