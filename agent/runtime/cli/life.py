"""start, pause, resume."""

from __future__ import annotations

import os

from agent.runtime import container, conversation, hooks
from agent.runtime.cli import delete, handles
from agent.runtime.container import Init
from agent.runtime.errors import InvalidConfig, RuntimeFailed, WrongState
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log
    from agent.runtime.plan import Plan


def _directory(options: Options) -> StateDirectory:
    return StateDirectory(handles.root(options), options.id)


def start(options: Options, log: Log) -> int:
    directory = _directory(options)
    status = directory.status()
    if status == "stopped":
        raise WrongState("cannot start a container that has stopped")
    if status != "created":
        raise WrongState("cannot start an already running container")
    plan = directory.plan()
    try:
        container.check_startable(plan)
    except InvalidConfig:
        directory.kill()  # nothing can become of it any more: it is stopped, as after any start that failed
        raise
    try:
        _open_gate(directory, plan)
        if "poststart" in plan.hooks:
            state = conversation.state_of(plan, "running", directory.state()["pid"])
            hooks.run(plan.hooks["poststart"], "poststart", state, plan.annotations)
    except RuntimeFailed as error:
        if str(error.extra["stage"]).startswith("hook "):  # spec: stop it, and go on as after a delete
            _destroy(directory, log)
        raise
    return 0


def _destroy(directory: StateDirectory, log: Log) -> None:
    cgroup = directory.cgroup()
    directory.kill()
    if cgroup.exists():
        cgroup.kill()
    delete.destroy(directory, cgroup, log)


def _open_gate(directory: StateDirectory, plan: Plan) -> None:
    fifo = os.path.join(directory.path, "exec.fifo")
    answer = os.open(os.path.join(directory.path, "status.fifo"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(answer, True)
    order = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.unlink(fifo)
    os.write(order, b"S")
    message = os.read(answer, 4096)
    if message[:1] == b"L":
        state = directory.state()
        init = Init(plan, directory.cgroup(), None)
        init.pid, init.pidfd = state["pid"], os.pidfd_open(state["pid"])
        init.deliver_listener(int(message[1:]))
        os.write(order, b"S")
        message = os.read(answer, 4096)
    if message[:1] == b"E":
        raise conversation.failure(message[1:], plan.process.args[0], plan.id)


def pause(options: Options, log: Log) -> int:
    directory = _directory(options)
    if directory.status() not in ("running", "created"):
        raise WrongState("container not running")
    directory.cgroup().freeze()
    return 0


def resume(options: Options, log: Log) -> int:
    directory = _directory(options)
    if not directory.alive() or not directory.cgroup().frozen():
        raise WrongState("container not paused")
    directory.cgroup().thaw()
    return 0
