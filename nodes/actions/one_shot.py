"""Acts on a node's containers and images: queued as rows, sent by the link, answered once.

Nothing awaits a node while a transaction or a database connection is held: `outcome` polls the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import connection, transaction

from agent.protocol.messages import ActionResult
from controlplane import events
from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from controlplane.events import hints
from controlplane.events.chain import clean
from controlplane.jobs.clock import database_now
from controlplane.rbac.models import Collection
from nodes import topics
from nodes.actions.session import lock_session, node_actor
from nodes.models import Action, ActionState, Container, Node
from registry.queries import pin

LIFETIME = 60.0  # seconds until a node that does not answer is given up
PULL_LIFETIME = 900.0


def queue_action(
    actor: Actor,
    node: Node,
    kind: str,
    target: str = "",
    args: Mapping[str, Any] | None = None,
    *,
    collection: Collection | None = None,
    lifetime: float = LIFETIME,
    key: str = "",
) -> Action:
    """Queue one act; rights were checked by the caller. `target` is the runtime's container id, `key` the action's own."""
    with transaction.atomic():
        action = Action.objects.create(
            id=key or new_id(),
            node=node,
            collection=collection or node.collection,
            kind=kind,
            target=target,
            args=clean(dict(args or {})),
            actor_id=actor.id,
            actor_name=actor.name,
            deadline=database_now() + timedelta(seconds=lifetime),
        )
        events.record(
            "container.action_requested" if target else "node.action_requested",
            actor=actor,
            target=f"container/{target}" if target else f"node/{node.pk}",
            collection_path=action.collection.path,
            data={"kind": kind, "node": node.pk, "action": action.pk},
        )
        transaction.on_commit(lambda: hints.publish(topics.ACTIONS, {"node": node.pk, "action": action.pk}))
        return action


def pull_image(actor: Actor, node: Node, reference: str) -> Action:
    """Let the node fetch an image of the registry, as `reference` stands now. Raises what `pin` raises."""
    args = {"reference": pin(reference, actor).reference}
    return queue_action(actor, node, "image_pull", "", args, lifetime=PULL_LIFETIME)


def complete_action(node_id: str, result: ActionResult) -> bool:
    """Store a node's answer. False for a repeat, an unknown id or one that expired. Raises `StaleSession`."""
    with transaction.atomic():
        lock_session(node_id, result.epoch)
        rows = Action.objects.select_for_update(of=("self",)).select_related("node", "collection")
        action = rows.filter(pk=result.action_id, node_id=node_id, state=ActionState.QUEUED).first()
        if action is None:
            return False
        action.state = ActionState.DONE if result.ok else ActionState.FAILED
        action.result, action.error = clean(dict(result.result)), clean(dict(result.error))
        action.finished_at = database_now()
        action.save()
        if result.ok and action.kind == "container_create":
            Container.objects.filter(node_id=node_id, container_id=str(action.result.get("id"))).update(
                collection=action.collection
            )
        events.record(
            "container.action_finished" if action.target else "node.action_finished",
            actor=node_actor(action.node),
            target=f"container/{action.target}" if action.target else f"node/{node_id}",
            collection_path=action.collection.path,
            data={"kind": action.kind, "action": action.pk, "ok": result.ok, "by": action.actor_name},
        )
        transaction.on_commit(lambda: hints.publish(topics.RESULTS, {"action": action.pk}))
        return True


def outcome(action_id: str) -> Action:
    """The action as it stands; releases the database connection so that a waiting caller holds none."""
    action = Action.objects.select_related("node").get(pk=action_id)
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()
    return action
