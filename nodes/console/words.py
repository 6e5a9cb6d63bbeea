"""States of the fleet in the console's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.protocol.states import TaskState
from nodes.models import Node, Service
from nodes.snapshot import UpdateState

WORKING = range(TaskState.NEW, TaskState.RUNNING)


def service_state(service: Service, counts: Mapping[str, int]) -> str:
    """running, updating, starting, degraded, paused, empty or removing, from the observed states of its wanted tasks."""
    if service.removed_at is not None:
        return "remove"
    if service.rolling:
        return "rolling back" if service.update.state is UpdateState.ROLLING_BACK else "updating"
    wanted = service.wanted.replicas if service.wanted.mode.value == "replicated" else sum(counts.values())
    running = counts.get("running", 0)
    if wanted == 0:
        return "empty"
    if running >= wanted:
        return "running"
    moving = any(TaskState[name.upper()] in WORKING for name in counts)
    return "starting" if moving and not counts.get("pending") and not running else "degraded"


def node_state(node: Node) -> str:
    """The link's state, unless an administrator wants something else of the node."""
    if node.pending:
        return "waiting"
    return node.state if node.availability == "active" or node.state != "ready" else node.availability


def why_pending(reasons: Iterable[Mapping[str, object]]) -> str:
    """The first explanation that a scheduler left on a pending task, as a sentence."""
    for reason in reasons:
        text = reason.get("text") or reason.get("message") or reason.get("summary")
        if text:
            return str(text)
    return ""
