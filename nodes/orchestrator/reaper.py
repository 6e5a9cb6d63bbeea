"""Ends of lives: orphans, removal, history.

A row with desired REMOVE goes only after the node confirmed the stop, so that its resources and ports are not handed out early
(SwarmKit, design/task_model.md). When nobody will ever confirm (node removed, or down for 24 h) the task is ORPHANED first.
"""

from __future__ import annotations

from agent.protocol.states import NodeState, TaskState
from nodes.orchestrator.desk import Desk
from nodes.snapshot import ServiceView, TaskView

ORPHAN_AFTER = 24 * 3600.0
HISTORY = 5  # ended tasks kept per slot


def orphan(desk: Desk) -> None:
    """Give up on tasks that run where nobody will report from."""
    for task in desk.each_task():
        if not task.bound or task.ended:
            continue
        node = desk.nodes.get(task.node_id)
        if node is None or node.state is NodeState.LEFT:
            desk.set_observed(task, TaskState.ORPHANED, "its node was removed from the cluster")
        elif node.state is NodeState.DOWN and node.down_since:
            if desk.now >= node.down_since + ORPHAN_AFTER:
                desk.set_observed(task, TaskState.ORPHANED, "its node has been down for 24 hours")
            else:
                desk.wake(node.down_since + ORPHAN_AFTER)


def reap(desk: Desk, service: ServiceView) -> None:
    """Delete what has come to its end: removed tasks, tasks nobody was told of, history beyond the limit."""
    for tasks in desk.slots_of(service).values():
        ended = [task for task in tasks if _history(task)]
        surplus = {task.id for task in ended[: max(0, len(ended) - HISTORY)]}
        for task in tasks:
            if task.id in surplus or _over(task):
                desk.delete(task)


def _history(task: TaskView) -> bool:
    return not task.live and task.ended and task.desired is not TaskState.REMOVE


def _over(task: TaskView) -> bool:
    if task.live:
        return False
    return not task.bound or (task.desired is TaskState.REMOVE and task.ended)
