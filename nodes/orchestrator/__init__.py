"""Which tasks there should be. Pure: a snapshot in, changes out; no ORM, no clock, no I/O."""

from nodes.orchestrator.changes import (
    Change,
    CreateTask,
    Decision,
    DeleteService,
    DeleteTask,
    RollBack,
    SetDesired,
    SetObserved,
    SetUpdate,
)
from nodes.orchestrator.liveness import Verdict, judge
from nodes.orchestrator.reconcile import reconcile

__all__ = [
    "Change",
    "CreateTask",
    "Decision",
    "DeleteService",
    "DeleteTask",
    "RollBack",
    "SetDesired",
    "SetObserved",
    "SetUpdate",
    "Verdict",
    "judge",
    "reconcile",
]
