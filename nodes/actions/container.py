"""A container by hand on one node."""

from __future__ import annotations

import dataclasses

from agent.protocol import codec
from agent.protocol.spec import ContainerSpec
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.rbac import collections
from controlplane.rbac.models import Collection
from nodes.actions.one_shot import queue_action
from nodes.actions.policy import gates
from nodes.models import Action, Node
from registry.queries import pin


def create_container(
    actor: Actor, node: Node, spec: ContainerSpec, *, name: str = "", collection: Collection | None = None, start: bool = True
) -> Action:
    """Queue the creation; the image is resolved to its digest here. The right to schedule on `node` was checked by the caller.

    Raises `Denied` with the missing gates, and what the registry raises for an image it does not have or the actor may not pull.
    """
    own = collections.private_of(actor.user) if actor.user is not None and not actor.is_admin else collections.shared()
    place = collection or own
    rbac.require(actor, "Container Create", place, gates=gates(spec))
    pinned = pin(spec.image, actor)
    fixed = dataclasses.replace(spec, image=pinned.reference)
    args = {"spec": codec.encode(fixed), "name": name, "start": start}
    return queue_action(actor, node, "container_create", args=args, collection=place, lifetime=300.0)
