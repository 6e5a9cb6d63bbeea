"""What administrators do with nodes: availability, labels, approval, removal, and letting go of the brake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from agent.protocol.errors import InvalidInput
from agent.protocol.states import Availability, NodeState, TaskState
from controlplane import events
from controlplane.api import versions
from controlplane.api.actor import Actor
from controlplane.events.chain import clean
from controlplane.jobs.clock import database_now
from controlplane.rbac.models import Collection
from nodes.actions.one_shot import queue_action
from nodes.actions.wake import assignments_after_commit, reconcile_after_commit, session_after_commit
from nodes.errors import NodeInUse
from nodes.models import Action, ActionState, Container, HostPort, Node, NodeImage, Task, Watch

MAX_LABELS = 200


def _lock(node: Node, expected: int | None) -> Node:
    row = Node.objects.select_for_update(of=("self",)).select_related("collection").get(pk=node.pk)
    versions.check(row, expected)
    return row


def update_node(
    actor: Actor,
    node: Node,
    *,
    expected: int | None = None,
    availability: Availability | None = None,
    labels: Mapping[str, str] | None = None,
    collection: Collection | None = None,
    role: str = "",
) -> Node:
    """Change what an administrator wants of a node; what is None stays. Draining moves its tasks away."""
    changes: dict[str, Any] = {}
    if availability is not None:
        changes["availability"] = availability.value
    if labels is not None:
        changes["labels"] = _checked(labels)
    if role:
        changes["role"] = role
    with transaction.atomic():
        row = _lock(node, expected)
        for name, value in changes.items():
            setattr(row, name, value)
        if collection is not None:
            row.collection = collection
            changes["collection"] = collection.path
        row.version += 1
        row.save()
        _record("node.updated", actor, row, changes)
        return row


def set_availability(actor: Actor, node: Node, availability: Availability, *, expected: int | None = None) -> Node:
    """active, pause (no new tasks) or drain (tasks move away)."""
    return update_node(actor, node, expected=expected, availability=availability)


def _checked(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"labels: at most {MAX_LABELS}", field="labels")
    for key, value in labels.items():
        if not key or len(key) > 128 or len(value) > 256 or "=" in key or any(char.isspace() for char in key):
            raise InvalidInput(
                f"labels: {key[:40]!r} needs 1-128 characters without blanks and '=', values at most 256", field="labels"
            )
    result: dict[str, str] = clean(dict(labels))
    return result


def approve_node(actor: Actor, node: Node) -> Node:
    """Let a node that joined with a token of pending approval take tasks."""
    with transaction.atomic():
        row = _lock(node, None)
        if row.approved_at is None:
            row.approved_at = database_now()
            row.version += 1
            row.save(update_fields=["approved_at", "version", "updated_at"])
            _record("node.approved", actor, row, {})
            session_after_commit(row.pk)
        return row


def remove_node(actor: Actor, node: Node, *, expected: int | None = None, force: bool = False) -> None:
    """Take a node out for ever: refused at once, its certificate worthless, its tasks replaced elsewhere.

    Without `force` it must be down or drained and empty, because its containers run on until somebody stops them there.
    """
    with transaction.atomic():
        row = _lock(node, expected)
        running = Task.objects.occupying().filter(node=row)
        if not force and row.state != NodeState.DOWN and running.exists():
            raise NodeInUse(
                f"{row.hostname} runs {running.count()} tasks: drain it first, or use force: its containers run on",
                tasks=running.count(),
            )
        now = database_now()
        row.state, row.state_at, row.state_reason = NodeState.LEFT, now, f"removed by {actor.name}"
        row.session = row.web_id = row.next_fingerprint = ""
        row.version += 1
        row.epoch += 1  # whatever its last session still sends changes nothing
        row.save()
        ids = list(running.values_list("pk", flat=True))
        Task.objects.filter(pk__in=ids).update(
            observed=TaskState.ORPHANED, observed_at=now, message="its node was removed from the cluster"
        )
        HostPort.objects.filter(node=row).delete()
        Container.objects.filter(node=row).delete()
        NodeImage.objects.filter(node=row).delete()
        error = {"code": "node_removed", "status": 403, "retry": False, "detail": "the node was removed", "extra": {}}
        Action.objects.queued().filter(node=row).update(state=ActionState.FAILED, finished_at=now, error=error)
        _record("node.removed", actor, row, {"force": force, "tasks": len(ids)})
        session_after_commit(row.pk)


def end_adoption(actor: Actor, node: Node) -> Node:
    """The orphans were decided about: the node enforces its assignments again, at once or with its next welcome."""
    with transaction.atomic():
        row = _lock(node, None)
        if row.adopt_since is not None:
            row.adopt_since = None
            row.save(update_fields=["adopt_since", "updated_at"])
            _record("node.adoption_ended", actor, row, {})
            queue_action(actor, row, "orphan_adopt")
            assignments_after_commit([row.pk])
        return row


def release_brake(actor: Actor) -> None:
    """Let go of the mass-failure brake early: nodes that are still silent go down and their tasks are replaced."""
    with transaction.atomic():
        Watch.objects.filter(pk=1).update(brake_released_at=database_now(), brake_engaged_at=None, brake_reason="")
        events.record("cluster.brake_released", actor=actor, target="cluster")
        reconcile_after_commit()


def _record(kind: str, actor: Actor, node: Node, data: dict[str, Any]) -> None:
    events.record(
        kind,
        actor=actor,
        target=f"node/{node.pk}",
        collection_path=node.collection.path,
        data={"hostname": node.hostname, **data},
    )
    reconcile_after_commit()
