"""Take over what another supervisor began: after an upgrade with its descriptors, after a crash from disk alone."""

from __future__ import annotations

import os
import time

from agent.protocol.errors import WharfError
from agent.supervisor import durable, keepsakes
from agent.supervisor.container import Container
from agent.supervisor.house import House
from agent.supervisor.loop import report
from agent.supervisor.processes import Process
from agent.supervisor.record import CREATED, PAUSED, RUNNING, Record, boot_id
from agent.supervisor.sameness import open_same
from agent.supervisor.server import Pending
from agent.supervisor.shims import Shim
from agent.supervisor.specification import Specification
from agent.supervisor.transition import HOOK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.supervisor.launch import Cgroup

_DYING = 2.0  # s until a cgroup whose processes were killed has to be empty
STORE_GRACE = 1.5  # s for a store of descriptors to bring the pidfd of a process that is gone


def everything(house: House, handed: dict[str, Any] | None) -> None:
    """All containers under the state directory, then (upgrade) all connections with their open questions."""
    containers: dict[str, Any] = handed["containers"] if handed else {}
    ledger = house.context.ledger
    noted = ledger.newest()
    for id_ in sorted(os.listdir(house.context.statedir)):
        try:
            _container(house, id_, ledger.read(noted[id_]) if id_ in noted else None, containers.get(id_))
        except Exception as error:  # noqa: BLE001  # one damaged directory must not keep the others' supervisor from starting
            report(error)
    if handed:
        house.context.logs.resume(handed.get("lingering", []))
        _connections(house, handed)


def _container(house: House, id_: str, noted: dict[str, Any] | None, handed: dict[str, Any] | None) -> None:
    directory = os.path.join(house.context.statedir, id_)
    if not os.path.isdir(directory):
        return
    record, spec = Record.load(directory, house.context.ledger, noted), Specification.load(directory)
    _end(os.path.join(directory, HOOK))
    if record is None or spec is None or record.making == boot_id():
        _discard(house, id_, directory, spec)
        return
    container = Container(house.context, spec, record)
    house.roster.add(container)
    if handed and handed["streams"] is not None:
        container.streams.restore(handed["streams"])
    container.run.shim = Shim.load(house.processes, directory)
    pidfd = handed["pidfd"] if handed and handed["pidfd"] >= 0 else open_same(record.pid, record.start_time, record.boot_id)
    if record.state == CREATED:
        container.discard_waiting(pidfd)
    elif pidfd >= 0:
        _living(house, container, pidfd)
    elif record.state in (RUNNING, PAUSED):
        container.lost(STORE_GRACE if record.boot_id == boot_id() else 0.0)
    else:
        container.adopt(None)
    if container.process is None:
        container.run.end_shim()  # whatever it kept is on record
    _execs(container, handed["execs"] if handed else {})


def _living(house: House, container: Container, pidfd: int) -> None:
    record = container.record
    found = bool(container.streams.sources)  # an upgrade handed them over
    if not found and not container.spec.terminal:
        container.streams.open_fifos()
    container.adopt(house.processes.track(record.pid, pidfd, record.start_time, container.ended))
    if container.run.shim is not None and not found:
        kept = container.run.shim.kept()
        try:
            keepsakes.take_back(container, record.pid, record.start_time, kept)
        finally:
            for fd in kept.values():
                os.close(fd)


def _execs(container: Container, handed: dict[str, Any]) -> None:
    directory = os.path.join(container.directory, "exec")
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        values = durable.read_unsynced(os.path.join(directory, name)) if not name.endswith(".tmp") else None
        if values is None:
            continue
        kept = handed.get(name)
        if kept is not None:
            container.execs.adopt(values, kept["pidfd"], kept["held"])
        else:
            alive = values["running"] and container.process is not None
            pidfd = open_same(values["pid"], values["start_time"], container.record.boot_id) if alive else -1
            container.execs.adopt(values, pidfd, [])


def _connections(house: House, handed: dict[str, Any]) -> None:
    connections = {dumped["fd"]: house.server.adopt(dumped["fd"], dumped) for dumped in handed["connections"]}
    house.bundles.restore(handed.get("bundles", []), connections)
    for fd, number, operation, target in handed["pending"]:
        connection = connections.get(fd)
        if connection is None:
            continue
        if operation == "upgrade":
            connection.answer(number, {"generation": house.generation, "pid": os.getpid()})
            continue
        try:
            house.resume(Pending(connection, number, operation, target))
        except WharfError as error:
            connection.refuse(number, error)


def _discard(house: House, id_: str, directory: str, spec: Specification | None) -> None:
    """A creation that a crash cut short: nobody was told of it."""
    _end(os.path.join(directory, "init.pid"))
    shim = Shim.load(house.processes, directory)
    if shim is not None:
        shim.end()
    if spec is not None:
        _clear(house.context.runtime.cgroup(id_, spec.cgroups_path))
    durable.remove_tree(directory)


def _clear(cgroup: Cgroup) -> None:
    """Kill what is in it and remove it: the dead leave it a moment later."""
    deadline = time.monotonic() + _DYING
    while True:
        try:
            cgroup.kill()
            cgroup.remove()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                report(error)
                return
        time.sleep(0.002)


def _end(path: str) -> None:
    """Kill the process that is on record there."""
    found = durable.read_unsynced(path)
    if isinstance(found, dict):
        pidfd = open_same(found["pid"], found["start_time"], found["boot_id"])
        if pidfd >= 0:
            Process(found["pid"], pidfd, found["start_time"], lambda _exit: None).send(9)
            os.close(pidfd)
    if os.path.exists(path):
        os.unlink(path)
