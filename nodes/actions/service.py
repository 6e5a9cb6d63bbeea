"""What users do with services: create, update, scale, roll back, remove.

Rights are asked here, so that REST, console, CLI and Engine API cannot differ; gates are judged over the whole resulting spec at
every write (security.md 2.9).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from django.db import IntegrityError, transaction

from agent.protocol import codec
from agent.protocol.codec import InvalidSpec
from agent.protocol.errors import InvalidInput
from agent.protocol.spec import PublishMode, ServiceSpec
from controlplane import events, rbac
from controlplane.api import versions
from controlplane.api.actor import Actor
from controlplane.api.ids import new_id
from controlplane.jobs.clock import database_now
from controlplane.rbac import collections
from controlplane.rbac.models import Collection
from nodes.actions.apply import restore_previous
from nodes.actions.leases import hold_for_service, keep_for_service
from nodes.actions.policy import gates
from nodes.actions.scheduling_root import scheduling_root
from nodes.actions.wake import reconcile_after_commit
from nodes.constraints import parse
from nodes.errors import NameTaken, NothingToRollBack, NotSupported
from nodes.models import Service
from nodes.snapshot import UpdateStatus
from registry.queries import Pin, pin

ACCESS_LABEL = "com.docker.ucp.access.label"


def create_service(actor: Actor, spec: ServiceSpec, collection: Collection | None = None) -> Service:
    """A new service; its image is resolved to a digest here, once.

    `collection` defaults to the one that the access label names, else to the actor's own. Raises `NameTaken`, `Denied` with the
    missing gates, `NoSchedulingRight`, and what the registry raises for an image it does not have or the actor may not pull.
    The image is leased: nobody deletes it without force while the service stands.
    """
    place = collection or _collection(actor, spec)
    rbac.require(actor, "Service Create", place, gates=gates(spec.container))
    check(spec)
    root = scheduling_root(actor, place)
    pinned = pin(spec.container.image, actor)
    key = new_id()
    try:
        with transaction.atomic():
            hold_for_service(key, pinned)
            service = Service.objects.create(
                id=key,
                name=spec.name,
                collection=place,
                spec=encode(spec),
                image=pinned.reference,
                platforms=_platforms(pinned),
                template=template(spec, pinned.reference, 0),
                root=root,
                created_by=actor.name,
                update_status=codec.encode(UpdateStatus()),
            )
            _record("service.created", actor, service, {"image": service.image, "replicas": spec.replicas})
    except IntegrityError:
        raise NameTaken(f"a service named {spec.name} exists already: choose another name, or update that one") from None
    return service


def check(spec: ServiceSpec) -> None:
    """What the spec's own classes cannot know: constraint grammar, and what this cluster cannot do yet."""
    for text in spec.placement.constraints:
        parse(text)
    for key in spec.placement.spread:
        if not key.startswith(("node.labels.", "engine.labels.")):
            raise InvalidSpec(f"spread {key!r}: write node.labels.<key> or engine.labels.<key>", field="placement.spread")
    if any(port.mode is PublishMode.INGRESS for port in spec.container.ports):
        raise NotSupported("ports: mode ingress needs the routing mesh, which this cluster does not have; publish in mode host")
    if spec.container.networks:
        raise NotSupported("networks: services use each node's default bridge here; leave networks empty")


def encode(spec: ServiceSpec) -> dict[str, Any]:
    """The spec as stored: defaults left out, but name, mode, replicas and container, which readers look for."""
    data: dict[str, Any] = codec.encode(spec)
    return {"mode": spec.mode.value, "replicas": spec.replicas, **data}


def template(spec: ServiceSpec, image: str, force: int) -> str:
    """Names what tasks are made of: two specs of the same template need no replacement of tasks.

    The text of the image does not count, its digest does. `force` other than 0 makes a new name of an unchanged spec.
    """
    container = {**codec.encode(spec.container), "image": image.partition("@")[2] or image}
    text = json.dumps([container, spec.mode.value, force], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _collection(actor: Actor, spec: ServiceSpec) -> Collection:
    label = spec.labels.get(ACCESS_LABEL, "")
    if label:
        return collections.resolve(label)
    if actor.user is not None and not actor.is_admin:
        return collections.private_of(actor.user)
    return collections.shared()


def _platforms(pinned: Pin) -> list[list[str]]:
    """[[os, architecture]] that the image was built for; attestations of an index name "unknown"."""
    pairs = [text.split("/")[:2] for text in pinned.platforms if not text.startswith("unknown/")]
    return [pair for pair in pairs if len(pair) == 2]


def update_service(
    actor: Actor, service: Service, spec: ServiceSpec, *, expected: int | None, force: bool = False, refresh: bool = False
) -> Service:
    """Replace the spec; tasks follow by the update config when their template changed, or always with `force`.

    `refresh` resolves the same image text again. Raises `PreconditionFailed` when the row is not at version `expected`.
    """
    rbac.require(actor, "Service Update", service, gates=gates(spec.container))
    if spec.name != service.name:
        raise InvalidInput("name: a service keeps its name; create another one and remove this", field="name")
    if spec.mode is not service.wanted.mode:
        raise InvalidInput("mode: replicated and global services cannot be turned into each other", field="mode")
    check(spec)
    root = scheduling_root(actor, service.collection)
    image, platforms, pinned = service.image, service.platforms, None
    if refresh or spec.container.image != service.wanted.container.image:
        pinned = pin(spec.container.image, actor)
        image, platforms = pinned.reference, _platforms(pinned)
    with transaction.atomic():
        if pinned is not None:
            hold_for_service(service.pk, pinned)
        else:
            keep_for_service(service.pk, image)
        row = _lock(service, expected)
        kept = {"spec": row.spec, "image": row.image, "platforms": row.platforms, "template": row.template}
        made = template(spec, image, row.generation + 1 if force else 0)
        if not force and template(spec, image, 0) == template(row.wanted, row.image, 0):
            made = row.template  # nothing that tasks are made of changed: an earlier forced update stays done
        row.previous = kept
        row.spec, row.image, row.platforms, row.template, row.root = encode(spec), image, platforms, made, root
        row.generation += 1
        row.version += 1
        row.update_status = codec.encode(UpdateStatus())
        row.save()
        _record("service.updated", actor, row, {"image": image, "replicas": spec.replicas, "force": force})
        return row


def scale(actor: Actor, service: Service, replicas: int, *, expected: int | None = None) -> Service:
    """Another number of replicas; nothing else changes and no running task is replaced."""
    spec = dataclasses.replace(service.wanted, replicas=replicas)
    rbac.require(actor, "Service Update", service, gates=gates(spec.container))
    if spec.mode.value == "global":
        raise InvalidInput("a global service runs one task on every node and cannot be scaled", field="replicas")
    with transaction.atomic():
        row = _lock(service, expected)
        was = row.wanted.replicas
        row.spec = {**row.spec, "replicas": replicas}
        row.version += 1
        row.save(update_fields=["spec", "version", "updated_at"])
        _record("service.scaled", actor, row, {"from": was, "replicas": replicas})
        return row


def roll_back(actor: Actor, service: Service, *, expected: int | None = None) -> Service:
    """Return to the spec before the last update. Raises `NothingToRollBack`; the old spec is judged by today's rights."""
    with transaction.atomic():
        row = _lock(service, expected)
        if row.previous is None:
            raise NothingToRollBack("there is no earlier spec: the service was never updated, or was rolled back already")
        old = codec.decode(ServiceSpec, row.previous["spec"])
        rbac.require(actor, "Service Update", service, gates=gates(old.container))
        restore_previous(row, f"rolled back by {actor.name}", database_now())
        _record("service.rolled_back", actor, row, {"image": row.image})
        return row


def remove_service(actor: Actor, service: Service, *, expected: int | None = None) -> None:
    """Stop its tasks everywhere; the row goes when the last node confirmed. The name is free at once."""
    rbac.require(actor, "Service Delete", service)
    with transaction.atomic():
        row = _lock(service, expected)
        row.removed_at = database_now()
        row.version += 1
        row.save(update_fields=["removed_at", "version", "updated_at"])
        _record("service.removal_requested", actor, row, {})


def move_service(actor: Actor, service: Service, collection: Collection, *, expected: int | None = None) -> Service:
    """Put it into another collection: needs Update where it is and Create where it goes."""
    rbac.require(actor, "Service Update", service)
    rbac.require(actor, "Service Create", collection, gates=gates(service.wanted.container))
    root = scheduling_root(actor, collection)
    with transaction.atomic():
        row = _lock(service, expected)
        was = row.collection.path
        row.collection, row.root = collection, root
        row.version += 1
        row.save(update_fields=["collection", "root", "version", "updated_at"])
        row.containers.update(collection=collection)
        _record("service.moved", actor, row, {"from": was})
        return row


def _lock(service: Service, expected: int | None) -> Service:
    row = (
        Service.objects.select_for_update(of=("self",))
        .select_related("collection")
        .filter(pk=service.pk, removed_at=None)
        .first()
    )
    if row is None:
        raise NameTaken("the service is being removed: wait until it is gone")
    versions.check(row, expected)
    return row


def _record(kind: str, actor: Actor, service: Service, data: dict[str, Any]) -> None:
    events.record(
        kind,
        actor=actor,
        target=f"service/{service.pk}",
        collection_path=service.collection.path,
        data={"name": service.name, **data},
    )
    reconcile_after_commit()
