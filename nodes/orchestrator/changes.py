"""What the orchestrator answers: a list of changes for `nodes.actions.apply`, each checked again against the row it touches."""

from __future__ import annotations

from dataclasses import dataclass

from agent.protocol.states import TaskState
from nodes.snapshot import UpdateStatus


@dataclass(frozen=True, slots=True)
class CreateTask:
    """A new task from the service's current spec. `restart_of` is the task it replaces by the restart policy ("" otherwise)."""

    service_id: str
    slot: int
    node_id: str = ""
    desired: TaskState = TaskState.RUNNING
    start_after: float = 0.0
    restart_of: str = ""


@dataclass(frozen=True, slots=True)
class SetDesired:
    """Desired states only grow, so a repeat changes nothing."""

    task_id: str
    desired: TaskState


@dataclass(frozen=True, slots=True)
class SetObserved:
    """REJECTED by the constraint enforcer, ORPHANED by the timer: the two observed states the control plane may write."""

    task_id: str
    observed: TaskState
    message: str


@dataclass(frozen=True, slots=True)
class DeleteTask:
    task_id: str


@dataclass(frozen=True, slots=True)
class SetUpdate:
    service_id: str
    status: UpdateStatus


@dataclass(frozen=True, slots=True)
class RollBack:
    """Spec := previous spec, a new generation, previous cleared; the update status becomes ROLLING_BACK."""

    service_id: str
    message: str


@dataclass(frozen=True, slots=True)
class DeleteService:
    service_id: str


Change = CreateTask | SetDesired | SetObserved | DeleteTask | SetUpdate | RollBack | DeleteService


@dataclass(frozen=True, slots=True)
class Decision:
    """`wake_at` is when to look again though nothing happens (a restart delay or a monitor period ends); None = never."""

    changes: tuple[Change, ...] = ()
    wake_at: float | None = None
