"""All containers of the node, by id."""

from __future__ import annotations

import os
import time

from agent.supervisor import durable
from agent.supervisor.container import Container
from agent.supervisor.context import Context
from agent.supervisor.record import Record, boot_id
from agent.supervisor.refusals import ContainerExists, InvalidRequest, NoSuchContainer
from agent.supervisor.specification import Specification, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RESERVED = ("supervisor",)  # our own cgroup stands beside the containers'


class Roster:
    """Makes, finds and forgets containers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.containers: dict[str, Container] = {}

    def get(self, id_: str) -> Container:
        """Raises NoSuchContainer."""
        try:
            return self.containers[id_]
        except KeyError:
            raise NoSuchContainer(f"no container {id_}") from None

    def create(self, id_: str, spec: dict[str, Any], done: Callable[[Exception | None, int], None]) -> None:
        """Make a container whose process waits for `start`: `done(None, its pid)`, or `done(error, 0)`: nothing is left.

        Raises InvalidRequest, ContainerExists, the refusals of logs, restart, health and runtime; nothing is left behind then.
        """
        _check_id(id_)
        if id_ in self.containers:
            raise ContainerExists(f"container {id_} exists already: delete it first")
        check(spec)
        directory = os.path.join(self.context.statedir, id_)
        durable.remove_tree(directory)  # of a creation that a crash cut short: it has no state.json
        os.makedirs(directory, 0o700)
        os.chmod(directory, 0o700)
        record = Record(directory, {"id": id_, "created_at": time.time_ns(), "making": boot_id()}, self.context.ledger)

        def store() -> None:
            container.spec.sync()
            record.save(sync=True)  # the directory, too: a container without state.json was never made

        def made(error: Exception | None) -> None:
            if error is not None:
                container.remove()
            done(error, record.pid)

        try:
            container = Container(self.context, Specification.create(directory, spec), record)
        except BaseException:
            durable.remove_tree(directory)
            raise
        self.add(container)
        try:
            container.create(store, made)  # the disk is slow, and the child busy: both at once
        except BaseException:
            container.remove()
            raise

    def add(self, container: Container) -> None:
        self.containers[container.id] = container
        container.gone.append(lambda: self._forget(container.id))

    def _forget(self, id_: str) -> None:
        del self.containers[id_]

    def records(self) -> list[dict[str, Any]]:
        """Of those that are made."""
        return [container.public() for container in self.containers.values() if container.beginning.made]


def _check_id(id_: str) -> None:
    plain = id_.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isascii() or not plain.isalnum() or len(id_) > 128 or not id_[0].isalnum() or id_ in RESERVED:
        raise InvalidRequest(f"container id {id_!r}: use up to 128 letters, digits, -, _ and ., beginning with a letter or digit")
