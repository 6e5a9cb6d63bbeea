"""States, as a clock: they only grow, with gaps of 64 so that a new one fits between (SwarmKit, api/types.proto).

`desired` is written by the control plane only, `observed` by the node that runs the task (the control plane may set PENDING and
ASSIGNED before, REJECTED and ORPHANED in the cases below).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """Life of a task: one attempt on one node, never restarted, only replaced."""

    NEW = 0  # orchestrator made it
    PENDING = 64  # waits for a node; the row says why
    ASSIGNED = 192  # scheduler bound it to a node for ever
    ACCEPTED = 256  # node persisted the assignment
    PREPARING = 320  # node pulls the image, makes mounts and network
    READY = 384  # container made, not started (desired READY = pre-pulled replacement)
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576  # exited 0
    SHUTDOWN = 640  # stopped because asked
    FAILED = 704  # exited non-zero, or could not be prepared or started
    REJECTED = 768  # the node cannot run it (constraints, resources), or the control plane found so
    REMOVE = 800  # desired only: stop it, then delete the row
    ORPHANED = 832  # its node has been down for 24 h

    @property
    def terminal(self) -> bool:
        """True when the task will never run again."""
        return self > TaskState.RUNNING


class NodeState(StrEnum):
    """What the control plane believes of a node's link. Written by nodes.link and the sweep job only."""

    UNKNOWN = "unknown"  # after a control-plane start or under the mass-failure brake: nothing is rescheduled
    READY = "ready"
    SUSPECT = "suspect"  # link closed, grace running: no new placements
    DOWN = "down"  # tasks are replaced elsewhere
    LEFT = "left"  # removed: refused at once


class Availability(StrEnum):
    """What an administrator wants of a node."""

    ACTIVE = "active"
    PAUSE = "pause"  # no new tasks, old ones untouched
    DRAIN = "drain"  # tasks move away


class ContainerState(StrEnum):
    """State of a container on a node, in the Engine API's words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    DEAD = "dead"


class Health(StrEnum):
    NONE = "none"  # no check configured
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
