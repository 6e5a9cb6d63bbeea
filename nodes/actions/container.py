"""A container by hand on one node."""

from __future__ import annotations

import dataclasses

from django.db import transaction

from agent.protocol import codec
from agent.protocol.spec import ContainerSpec
from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from controlplane.rbac import collections
from controlplane.rbac.models import Collection
from nodes.actions.leases import hold_for_action
from nodes.actions.one_shot import queue_action
from nodes.actions.policy import gates
from nodes.models import Action, Node
from registry.queries import pin

LIFETIME = 300.0  # seconds: a large image is pulled first


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
    key = new_id()
    with transaction.atomic():
        hold_for_action(key, pinned, LIFETIME)
        return queue_action(actor, node, "container_create", args=args, collection=place, lifetime=LIFETIME, key=key)
