"""Refusals of the containers room, in the words that Docker's users know."""

from __future__ import annotations

from agent.protocol.errors import Conflict, NotFound


class NoSuchContainer(NotFound):
    code = "no_such_container"


class AmbiguousContainer(Conflict):
    code = "ambiguous_container"


class NameInUse(Conflict):
    code = "container_name_in_use"


class ContainerRunning(Conflict):
    code = "container_running"


class LogsNotKept(Conflict):
    code = "logs_not_kept"


class ContainerNotRunning(Conflict):
    code = "container_not_running"
