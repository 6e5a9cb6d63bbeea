"""create and run."""

from __future__ import annotations

import json
import os

from agent.runtime import bundle, conversation, rootless
from agent.runtime.bundle import Bundle
from agent.runtime.cli import delete, handles
from agent.runtime.container import Init, Stdio
from agent.runtime.errors import InvalidConfig
from agent.runtime.privilege import privileged
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def create(options: Options, log: Log) -> int:
    directory, found = _begin(options, detached=True)
    try:
        gate = _gate(directory)
    except BaseException:
        directory.remove()
        raise
    try:
        init = _create(options, log, directory, found, gate)
    finally:
        for fd in gate:
            os.close(fd)
    init.abandon()
    try:
        handles.give(options, init)
    except BaseException:
        _withdraw(directory, init, log)
        raise
    os.close(init.pidfd)
    return 0


def run(options: Options, log: Log) -> int:
    directory, found = _begin(options, options.flag("detach"))
    init = _create(options, log, directory, found, None)
    try:
        handles.give(options, init)
        if not options.flag("detach"):
            handles.hold_signals()
        init.start()
    except BaseException:
        _withdraw(directory, init, log)
        raise
    if options.flag("detach"):
        return 0
    status = handles.wait(init)
    if not options.flag("keep"):
        init.cgroup.kill()
        delete.destroy(directory, init.cgroup, log)
    return status


def _withdraw(directory: StateDirectory, init: Init, log: Log) -> None:
    """A container that its caller will not hear of."""
    init.cgroup.kill()
    conversation.reap(init.pidfd)
    delete.destroy(directory, init.cgroup, log)


def _begin(options: Options, detached: bool) -> tuple[StateDirectory, Bundle]:
    """The bundle, and a new state directory for it."""
    found = Bundle(options.text("bundle", "."), options.text("config"), json.loads)
    check_console(found.terminal, options, detached)
    if os.geteuid():
        found.replace(rootless.adapted(found.config), json.dumps)
    directory = StateDirectory(handles.root(options), options.id)
    directory.make(found.text)
    return directory, found


def _create(options: Options, log: Log, directory: StateDirectory, found: Bundle, gate: tuple[int, int] | None) -> Init:
    try:
        plan = found.plan(options.id, handles.manager(options))
        lenient = handles.lenient(options)
        if handles.manager(options) == "cgroupfs" and (lenient or not privileged()):
            rootless.place(plan, lenient)
        for text in plan.warnings:
            log.warning(text)
    except BaseException:
        directory.remove()
        raise
    io = Stdio(0, 1, 2, terminal=plan.process.terminal)
    io.plain_newlines = not options.text("console-socket")
    log.debug(f"nsexec container setup of {options.id}")  # the three steps that runc names so
    init, warning = bundle.create(
        directory,
        plan,
        io,
        lambda state: json.dumps(state).encode(),
        gate=gate,
        keep_fds=handles.kept(options),
        pivot=not options.flag("no-pivot"),
        keyring=not options.flag("no-new-keyring"),
        look_up=True,  # both peers' create does: podman and dockerd take their 126 and 127 from there
    )
    if warning:
        log.warning(warning)
    log.debug(f"child process in init() is {init.pid}")
    log.debug("init: closing the pipe to signal completion")
    return init


def check_console(terminal: bool, options: Options, detached: bool) -> None:
    """Raises InvalidConfig, in runc's words, where a terminal would have no other end."""
    socket = options.text("console-socket")
    if terminal and detached and not socket:
        raise InvalidConfig(f"cannot allocate tty if {options.program} will detach without setting console socket")
    if socket and not terminal:
        raise InvalidConfig(f"cannot use console socket if {options.program} will not detach or allocate tty")


def _gate(directory: StateDirectory) -> tuple[int, int]:
    """Both pipes open for reading and writing, so that neither end sees an end of file while nobody starts the container."""
    fds = []
    for name in ("exec.fifo", "status.fifo"):
        path = os.path.join(directory.path, name)
        os.mkfifo(path, 0o600)
        fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return fds[0], fds[1]
