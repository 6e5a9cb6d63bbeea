"""The cluster at one moment as plain data: what the scheduler and the orchestrator decide from.

Parts meet in plain data: `nodes.queries.cluster_snapshot` builds it from rows, tests build it by hand, and neither decision room
knows the database. Times are unix seconds on the database's clock; `now` is passed in, because a pure room has no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.protocol.spec import PortSpec, PublishMode, ServiceSpec
from agent.protocol.states import Availability, NodeState, TaskState


class UpdateState(StrEnum):
    """Where a service's rolling update stands (SwarmKit, api/types.proto UpdateStatus)."""

    NONE = ""
    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLING_BACK = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLED_BACK = "rollback_completed"

    @property
    def running(self) -> bool:
        return self in (UpdateState.UPDATING, UpdateState.ROLLING_BACK)

    @property
    def paused(self) -> bool:
        return self in (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)

    @property
    def rollback(self) -> bool:
        return self in (UpdateState.ROLLING_BACK, UpdateState.ROLLBACK_PAUSED, UpdateState.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """`generation` is the service generation the update goes to; `total` the slots that were outdated when it began."""

    state: UpdateState = UpdateState.NONE
    generation: int = 0
    started: float = 0.0
    finished: float = 0.0
    total: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the decisions see it. `nano_cpus` and `memory` are its whole capacity; `down_since` 0 = not down."""

    id: str
    hostname: str = ""
    state: NodeState = NodeState.READY
    availability: Availability = Availability.ACTIVE
    role: str = "worker"
    os: str = "linux"
    arch: str = "amd64"
    labels: Mapping[str, str] = field(default_factory=dict)
    engine_labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    nano_cpus: int = 1 << 62
    memory: int = 1 << 62
    collection: str = "/"
    approved: bool = True
    down_since: float = 0.0
    problems: tuple[str, ...] = ()  # what it says of itself that makes it unfit for new tasks; it is PAUSE then

    @property
    def gone(self) -> bool:
        """Its tasks are to be replaced: nobody will report on them."""
        return self.state in (NodeState.DOWN, NodeState.LEFT)

    @property
    def accepts(self) -> bool:
        """New tasks may be placed on it."""
        return self.approved and self.state is NodeState.READY and self.availability is Availability.ACTIVE


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task row. `template` names the container template it was made from; equal templates need no replacement.

    `running_at` 0 = it was never seen RUNNING. `start_after` is when a task of desired READY may be raised to RUNNING.
    `observed_at` is when the control plane learnt of the observed state.
    """

    id: str
    service_id: str
    slot: int = 0
    node_id: str = ""
    desired: TaskState = TaskState.RUNNING
    observed: TaskState = TaskState.NEW
    generation: int = 1
    template: str = ""
    created: float = 0.0
    observed_at: float = 0.0
    running_at: float = 0.0
    start_after: float = 0.0
    nano_cpus: int = 0
    memory: int = 0
    ports: tuple[tuple[int, str], ...] = ()

    @property
    def live(self) -> bool:
        """It is wanted: its slot counts as served by it."""
        return self.desired <= TaskState.RUNNING

    @property
    def ended(self) -> bool:
        return self.observed > TaskState.RUNNING

    @property
    def bound(self) -> bool:
        """A node was told of it."""
        return bool(self.node_id) and self.observed >= TaskState.ASSIGNED

    @property
    def occupies(self) -> bool:
        """It holds reservations and ports of its node."""
        return bool(self.node_id) and TaskState.ASSIGNED <= self.observed <= TaskState.RUNNING


@dataclass(frozen=True, slots=True)
class ServiceView:
    """`root` is the collection path below which the writer of the spec may schedule; `platforms` empty = any."""

    id: str
    spec: ServiceSpec
    generation: int = 1
    template: str = ""
    removed: bool = False
    update: UpdateStatus = UpdateStatus()
    has_previous: bool = False
    version: int = 1  # of the row: changes decided for another version are not applied
    root: str = "/"
    platforms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Restart:
    """One replacement the restart policy made: what its limits count and what makes a failing node sink."""

    service_id: str
    slot: int
    node_id: str
    generation: int
    at: float
    failed: bool = True


@dataclass(frozen=True, slots=True)
class NodeLease:
    """`state_at`: since when it is in that state; `linked`: a link session is open as far as the row says.

    `web_seen`: when the web process that holds the link last wrote leases; 0 = it is gone, or there is no link.
    """

    id: str
    state: NodeState
    lease_until: float
    state_at: float
    linked: bool = True
    web_seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Brake:
    """`engaged_at` 0 = off. `released_at`: when an operator last let go; not engaged again within the window after that."""

    engaged_at: float = 0.0
    released_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at `now`. Order of the tuples does not matter to the result."""

    now: float
    nodes: tuple[NodeView, ...] = ()
    services: tuple[ServiceView, ...] = ()
    tasks: tuple[TaskView, ...] = ()
    restarts: tuple[Restart, ...] = ()


def host_ports(ports: tuple[PortSpec, ...]) -> tuple[tuple[int, str], ...]:
    """The (port, protocol) pairs that a task takes from its node: published, fixed and in host mode."""
    return tuple((port.published, port.protocol.value) for port in ports if port.published and port.mode is PublishMode.HOST)
