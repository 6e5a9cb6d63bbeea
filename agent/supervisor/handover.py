"""Upgrade without loss: execv keeps children and descriptors; what they mean passes in a memfd.

Files on disk are the base (the new program reads them as after a crash); the handover adds what only a living process has:
pidfds, streams with their clients, connections with unanswered questions. Unfinished log lines are in their files already.
"""

from __future__ import annotations

import os

from agent.supervisor import jsontext
from agent.supervisor.durable import read_all
from agent.supervisor.wire import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from agent.supervisor.container import Container
    from agent.supervisor.house import House
else:
    import _signal as signal

VERSION = 1


def leave(house: House) -> None:
    """Become the program on disk. Returns only by raising OSError, with everything as before."""
    fds: list[int] = []
    image = house.image()
    memfd = sealed(jsontext.dumps(dump(house, fds)))
    fds.append(memfd)
    # between execve and the new program's own handlers the default action of these would end us
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGTERM)}
    for fd in fds:
        os.set_inheritable(fd, True)
    try:
        words = [*house.command, "--handover", str(memfd)]
        os.execve(image, words, os.environ)  # noqa: S606  # replacing ourselves is the point
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(memfd)
        os.close(image)


def load(fd: int) -> dict[str, Any]:
    """What the program before us left; the descriptor is closed."""
    try:
        state: dict[str, Any] = jsontext.loads(read_all(fd))
    finally:
        os.close(fd)
    return state


def dump(house: House, fds: list[int]) -> dict[str, Any]:
    """The state; every descriptor in it is added to `fds`."""
    server = house.server
    state: dict[str, Any] = {
        "version": VERSION,
        "instance": house.instance,
        "generation": house.generation,
        "listener": server.listener.fileno(),
        "lock": house.lock,
        "connections": [connection.dump() for connection in server.connections.values()],
        "pending": [[p.connection.fileno(), p.number, p.operation, p.target] for p in server.pending if p.connection.alive],
        "lingering": house.context.logs.dump(),
        "containers": {container.id: _container(container) for container in house.roster.containers.values()},
    }
    state["bundles"] = house.bundles.dump(set(server.connections), fds)
    fds += [state["listener"], state["lock"], *_connection_fds(state["connections"])]
    for dumped in state["containers"].values():
        fds += _container_fds(dumped)
    fds += [sink["fd"] for _id, _log, sink in state["lingering"] if sink["fd"] >= 0]
    return state


def _container(container: Container) -> dict[str, Any]:
    sessions = {
        session.id: {"pidfd": session.process.pidfd, "held": session.held}
        for session in container.execs.all()
        if session.process is not None
    }
    return {
        "pidfd": container.process.pidfd if container.process else -1,
        "streams": container.open_streams.dump() if container.open_streams is not None else None,
        "execs": sessions,
    }


def _connection_fds(connections: list[dict[str, Any]]) -> list[int]:
    fds: list[int] = []
    for connection in connections:
        fds.append(connection["fd"])
        for _data, queued in connection["queue"]:
            fds += queued
    return fds


def _container_fds(dumped: dict[str, Any]) -> list[int]:
    fds: list[int] = [dumped["pidfd"]]
    for session in dumped["execs"].values():
        fds += [session["pidfd"], *session["held"]]
    streams = dumped["streams"]
    if streams is not None:
        fds += [fd for _name, fd in streams["sources"]] + streams["early"]
        for attachment in streams["attachments"]:
            fds += [fd for fd, _backlog in attachment.values()]
        if streams["log"] is not None:
            fds.append(streams["log"]["fd"])
        if streams["inlet"] is not None:
            fds += [streams["inlet"]["fd"], *streams["inlet"]["clients"]]
    return [fd for fd in fds if fd >= 0]
