"""What clients can ask, one function an operation: parameters in, one call, an answer out (now, or when it has come true)."""

from __future__ import annotations

import os

from agent.protocol.errors import Internal, WharfError
from agent.supervisor import execs, keepsakes, proctable
from agent.supervisor.loop import report
from agent.supervisor.refusals import InvalidRequest
from agent.supervisor.specification import SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.connection import Connection
    from agent.supervisor.container import Container
    from agent.supervisor.house import House

VERSION = 1
_MISSING = object()
_KILL = 9


class Call:
    """One request, with typed access to its parameters."""

    __slots__ = ("connection", "fds", "house", "message", "number")

    def __init__(self, house: House, connection: Connection, number: Any, message: dict[str, Any], fds: list[int]) -> None:
        self.house = house
        self.connection = connection
        self.number = number
        self.message = message
        self.fds = fds  # closed after the operation: take duplicates, or remove them from the list

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """A parameter of the given type. Raises InvalidRequest."""
        value = self.message.get(name, default)
        if value is _MISSING:
            raise InvalidRequest(f"operation {self.message['op']} needs the parameter {name}")
        if value is default:
            return value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidRequest(f"parameter {name} of operation {self.message['op']} has the wrong type")
        if isinstance(value, str) and "\0" in value:
            raise InvalidRequest(f"parameter {name} of operation {self.message['op']} has a NUL character in it")
        return value

    @property
    def container(self) -> Container:
        return self.house.roster.get(self.get("id", str))

    def answer(self, ok: dict[str, Any], fds: list[int] | None = None) -> None:
        self.connection.answer(self.number, ok, fds or [])

    def conclude(self, error: Exception | None, ok: dict[str, Any]) -> None:
        """Answer, or refuse."""
        if error is None:
            self.answer(ok)
        else:
            self.connection.refuse(self.number, refusal(error, self.message.get("op")))


def hello(call: Call) -> None:
    call.answer({"version": VERSION, "pid": os.getpid(), "instance": call.house.instance, "generation": call.house.generation})


def create(call: Call) -> None:
    spec = {
        "config": call.get("config", dict),
        "rootfs": call.get("rootfs", list),
        "log": call.get("log", dict, None) or {"driver": "json-file"},
        "open_stdin": call.get("open_stdin", bool, False),
        "stdin_once": call.get("stdin_once", bool, False),
        "restart": call.get("restart", dict, None) or {"name": "no"},
        "health": call.get("health", dict, None) or {},
        "annotations": call.get("annotations", dict, None) or {},
        "lease": call.get("lease", (int, float), 0.0),
        "isolation": call.get("isolation", str, SHARED),
    }
    call.house.roster.create(call.get("id", str), spec, lambda error, pid: call.conclude(error, {"pid": pid}))


def start(call: Call) -> None:
    container = call.container
    container.start(lambda error: call.conclude(error, {"pid": container.record.pid}))


def kill(call: Call) -> None:
    call.container.kill(_signal(call), call.get("all", bool, False))
    call.answer({})


def stop(call: Call) -> None:
    grace = call.get("grace", (int, float), None)
    container = call.container
    container.stop(_signal(call), grace)
    call.house.when_at_rest(call.connection, call.number, "stop", container.id)


def wait(call: Call) -> None:
    container = call.container
    call.house.when_at_rest(call.connection, call.number, "wait", container.id, fresh=call.get("next", bool, False))


def pause(call: Call) -> None:
    call.container.pause()
    call.answer({})


def resume(call: Call) -> None:
    call.container.resume()
    call.answer({})


def update(call: Call) -> None:
    call.container.update(call.get("resources", dict, None), call.get("restart", dict, None))
    call.answer({})


def stats(call: Call) -> None:
    call.answer({"stats": call.container.cgroup.stats()})


def top(call: Call) -> None:
    container = call.container
    call.answer({"processes": proctable.top(container.cgroup.pids() if container.process else [])})


def delete(call: Call) -> None:
    call.house.delete(call.connection, call.number, call.container, call.get("force", bool, False))


def state(call: Call) -> None:
    call.answer({"container": call.container.public()})


def config(call: Call) -> None:
    """The OCI configuration as it is now, updates included."""
    call.answer({"config": call.container.spec.read()["config"]})


def list_(call: Call) -> None:
    call.answer({"containers": call.house.roster.records()})


def attach(call: Call) -> None:
    container = call.container
    terminal = container.spec.terminal
    names = ("stdout",) if terminal else ("stdout", "stderr")
    stdin, ends = container.streams.attach(names, call.get("stdin", bool, True))
    fds = [*([] if stdin is None else [stdin]), *ends]
    try:
        call.answer({"stdin": stdin is not None, "streams": list(names), "terminal": terminal}, fds)
    finally:
        _close(fds)


def exec_(call: Call) -> None:
    container = call.container
    process = call.get("process", dict)
    if not isinstance(process.get("args"), list) or not process["args"]:
        raise InvalidRequest("process.args is missing: say what to run")
    stdin = call.get("stdin", bool, False)
    id_ = call.get("exec_id", str, None) or os.urandom(16).hex()
    session, fds = container.execs.run(id_, process, call.get("tty", bool, False), stdin)
    try:
        call.answer({"exec_id": session.id, "pid": session.pid, "stdin": stdin and not session.terminal}, fds)
    finally:
        _close(fds)


def exec_wait(call: Call) -> None:
    call.house.when_exec_ended(call.connection, call.number, call.get("exec_id", str))


def exec_state(call: Call) -> None:
    container, session = execs.find(call.house.roster.containers, call.get("exec_id", str))
    call.answer({"id": container.id, "exec": session.public()})


def exec_kill(call: Call) -> None:
    _container, session = execs.find(call.house.roster.containers, call.get("exec_id", str))
    call.answer({"sent": session.process is not None and session.process.send(_signal(call))})


def resize(call: Call) -> None:
    rows, columns = call.get("rows", int), call.get("cols", int)
    if not 0 < rows < 65536 or not 0 < columns < 65536:
        raise InvalidRequest(f"a terminal of {rows} rows and {columns} columns: both from 1 to 65535")
    exec_id = call.get("exec_id", str, None)
    if exec_id is None:
        call.container.resize(rows, columns)
    else:
        execs.find(call.house.roster.containers, exec_id)[1].resize(rows, columns)
    call.answer({})


def subscribe(call: Call) -> None:
    """The full list, then every event: nothing can fall between, because the loop does one thing at a time."""
    call.connection.subscribed = True
    call.answer({"containers": call.house.roster.records()})
    if call.get("hold", bool, False):
        call.house.entrust_all(call.connection)


def give(call: Call) -> None:
    """A store gives back descriptors after a crash of the supervisor: {id, pid, start_time, kinds} and one descriptor a kind."""
    kinds = call.get("kinds", list)
    if len(kinds) != len(call.fds):
        raise InvalidRequest(f"{len(kinds)} kinds but {len(call.fds)} descriptors")
    container = call.container
    keepsakes.take_back(container, call.get("pid", int), call.get("start_time", int), dict(zip(kinds, call.fds, strict=True)))
    call.answer({})


def upgrade(call: Call) -> None:
    """Answered by the next generation."""
    call.house.begin_upgrade(call.connection, call.number)


def shutdown(call: Call) -> None:
    """End the supervisor; containers go on, and wait for the next one."""
    call.answer({})
    call.house.leave()


def bundle_run(call: Call) -> None:
    call.house.bundles.run(call)


def bundle_exec(call: Call) -> None:
    call.house.bundles.exec(call)


def refusal(error: Exception, operation: Any) -> WharfError:
    """What a client is told of an error."""
    if isinstance(error, WharfError):
        return error
    report(error)
    if isinstance(error, OSError):
        return Internal(f"operation {operation}: {error}", errno=error.errno or 0)
    return Internal(f"{type(error).__name__} in operation {operation}: {error}")


def waits_its_turn(call: Call) -> bool:
    """Whether a transition of its container is under way that has to be over first. Some end it instead."""
    message = call.message
    operation, id_ = message["op"], message.get("id")
    container = call.house.roster.containers.get(id_) if operation in _IN_ORDER and isinstance(id_, str) else None
    if container is None or container.beginning.transition is None:
        return False
    if operation == "wait":
        return message.get("next") is not True
    return not (operation == "delete" and message.get("force") is True) and not (
        operation == "kill" and message.get("signal") == _KILL
    )


def _signal(call: Call) -> int:
    number: int = call.get("signal", int)
    if not 0 < number < 65:
        raise InvalidRequest(f"signal {number}: use a number from 1 to 64")
    return number


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# what changes a container, or asks for what a change leads to: in the order in which it comes
_IN_ORDER = ("start", "kill", "stop", "wait", "pause", "resume", "update", "top", "delete", "exec", "resize")

TABLE: dict[str, Callable[[Call], None]] = {
    "hello": hello,
    "create": create,
    "start": start,
    "kill": kill,
    "stop": stop,
    "wait": wait,
    "pause": pause,
    "resume": resume,
    "update": update,
    "stats": stats,
    "top": top,
    "delete": delete,
    "state": state,
    "config": config,
    "list": list_,
    "attach": attach,
    "exec": exec_,
    "exec_wait": exec_wait,
    "exec_state": exec_state,
    "exec_kill": exec_kill,
    "resize": resize,
    "bundle_run": bundle_run,
    "bundle_exec": bundle_exec,
    "subscribe": subscribe,
    "give": give,
    "upgrade": upgrade,
    "shutdown": shutdown,
}
