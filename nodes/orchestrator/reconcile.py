"""`reconcile`: one round of everything that keeps services as wanted.

Level-triggered: it looks at the whole snapshot and needs no memory of earlier rounds, so a lost event or a crash between rounds
costs nothing. The caller applies the changes and calls again until there are none (each round only grows states or makes what
is missing, so the rounds end).
"""

from __future__ import annotations

from agent.protocol.spec import ServiceMode
from agent.protocol.states import TaskState
from nodes.orchestrator.changes import Decision
from nodes.orchestrator.desk import Desk
from nodes.orchestrator.enforcer import enforce
from nodes.orchestrator.everywhere import reconcile_global
from nodes.orchestrator.reaper import orphan, reap
from nodes.orchestrator.replicated import reconcile_replicated
from nodes.snapshot import ServiceView, Snapshot


def reconcile(snapshot: Snapshot) -> Decision:
    """Changes that bring the cluster nearer to what its services want, and when to look again."""
    desk = Desk(snapshot)
    orphan(desk)
    enforce(desk)
    for service in list(desk.services.values()):
        if service.removed:
            _remove(desk, service)
        elif service.spec.mode is ServiceMode.GLOBAL:
            reconcile_global(desk, service)
        else:
            reconcile_replicated(desk, service)
        reap(desk, service)
        if service.removed and not desk.slots_of(service):
            desk.delete_service(service)
    return desk.decision()


def _remove(desk: Desk, service: ServiceView) -> None:
    for tasks in desk.slots_of(service).values():
        for task in tasks:
            desk.set_desired(task, TaskState.REMOVE)
