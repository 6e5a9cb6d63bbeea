"""What one task needs next: pure, one transition a step.

`decide` looks at what is wanted (the assignment), what was reached (the record) and what is there (the container), and names one
act. The worker carries it out and asks again. Nothing here waits, reads a clock or touches the node.

    desired RUNNING   accept -> prepare -> create -> start -> (healthy) -> running -> exit
    desired READY     accept -> prepare -> create, and no further: a replacement that is pulled and waits
    desired SHUTDOWN  stop, keep the container (its logs and exit code stay readable) until the task is dropped
    desired REMOVE    stop, then remove
    not assigned      remove, forget
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from agent.protocol.states import ContainerState, Health, TaskState


class Act(Enum):
    NOTHING = auto()
    ACCEPT = auto()
    PREPARE = auto()  # pull the image, check what the task needs
    CREATE = auto()
    START = auto()
    RUNNING = auto()  # note that it runs (and is healthy, where it has a check)
    STOP = auto()
    EXITED = auto()  # note how it ended
    LOST = auto()  # the container of a started task is gone
    STOPPED = auto()  # note that nothing runs and nothing will
    REMOVE = auto()  # remove the container
    FORGET = auto()  # delete the record


@dataclass(frozen=True, slots=True)
class View:
    """The task's container as it is now."""

    state: ContainerState
    health: Health = Health.NONE


def decide(desired: TaskState | None, observed: TaskState, container: View | None) -> Act:
    """The next act for a task. `desired` None: the task is no longer assigned to this node."""
    if desired is None or desired >= TaskState.REMOVE:
        return _remove(desired, observed, container)
    if observed.terminal:
        return Act.STOP if container and _alive(container) else Act.NOTHING
    if desired > TaskState.RUNNING:
        return _stop(observed, container)
    return _advance(desired, observed, container)


def _remove(desired: TaskState | None, observed: TaskState, container: View | None) -> Act:
    if container is not None:
        return Act.STOP if _alive(container) else Act.REMOVE
    if not observed.terminal:
        return Act.STOPPED
    return Act.FORGET if desired is None else Act.NOTHING


def _stop(observed: TaskState, container: View | None) -> Act:
    if container is not None and _alive(container):
        return Act.STOP
    return Act.STOPPED


def _advance(desired: TaskState, observed: TaskState, container: View | None) -> Act:
    if observed < TaskState.ACCEPTED:
        return Act.ACCEPT
    if observed < TaskState.PREPARING:
        return Act.PREPARE
    if observed < TaskState.READY:
        return Act.CREATE
    if observed < TaskState.STARTING:
        if container is None:
            return Act.CREATE
        return Act.START if desired >= TaskState.RUNNING else Act.NOTHING
    return _watch(observed, container)


def _watch(observed: TaskState, container: View | None) -> Act:
    if container is None:
        return Act.LOST
    if not _alive(container):
        # Created but never started: the agent died between noting STARTING and the start itself.
        return Act.START if container.state is ContainerState.CREATED else Act.EXITED
    if container.health is Health.UNHEALTHY:
        return Act.STOP
    if observed < TaskState.RUNNING and container.health in (Health.NONE, Health.HEALTHY):
        return Act.RUNNING
    return Act.NOTHING


def _alive(container: View) -> bool:
    return container.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)
