"""Refusals of the containers room, in the words that Docker's users know."""

from __future__ import annotations

from agent.protocol.errors import Conflict, NotFound, Unavailable


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


class OtherDriverRunning(Conflict):
    """The agent will not hide a container that runs: nobody would look after it."""

    code = "other_driver_running"

    def __init__(self, container_id: str, driver: str, chosen: str) -> None:
        super().__init__(
            f"container {container_id[:12]} runs on graph driver {driver}: start the agent with --graph-driver {driver},"
            f" stop its containers, then switch to {chosen}",
            container=container_id,
            driver=driver,
        )


class IdRangesExhausted(Unavailable):
    """Every range of ids for user namespaces belongs to a tenant that has containers here."""

    code = "id_ranges_exhausted"
