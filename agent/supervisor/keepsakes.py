"""Descriptors that a store outside (the agent) keeps for the next supervisor, and their way back."""

from __future__ import annotations

import os

from agent.supervisor.processes import UNKNOWN, Exit
from agent.sys.pidfd import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.supervisor.container import Container
    from agent.supervisor.streams import Streams


def of(container: Container) -> dict[str, int]:
    """By kind: pidfd, and streams_of. Empty without a process."""
    streams = container.open_streams
    if container.process is None or streams is None:
        return {}
    return {"pidfd": container.process.pidfd, **streams_of(streams)}


def streams_of(streams: Streams) -> dict[str, int]:
    """By kind: console, or stdout, stderr, stdin."""
    kept: dict[str, int] = {}
    for source in streams.sources:
        kept["console" if os.isatty(source.fd) else source.name] = source.fd
    inlet = streams.inlet
    if inlet is not None and inlet.fd >= 0 and not inlet.once and "console" not in kept:  # once: a duplicate would keep it open
        kept["stdin"] = inlet.fd
    return kept


def take_back(container: Container, pid: int, start_time: int, kept: dict[str, int]) -> None:
    """What a store kept through our predecessor's death. What we have already, or of another run, is not taken."""
    record = container.record
    if (pid, start_time) != (record.pid, record.start_time):
        return
    if container.is_lost:
        status = exit_status(kept["pidfd"]) if "pidfd" in kept else None
        container.found(UNKNOWN if status is None else Exit.of_status(status))
    elif container.process is not None:
        streams = container.streams
        if "console" in kept and not streams.sources:
            streams.console(os.dup(kept["console"]))
        if "stdin" in kept and streams.inlet is None:
            streams.type_into(os.dup(kept["stdin"]))
